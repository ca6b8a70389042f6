"""The feature cache of models that encode whole clips, such as motion from the first frame: its format and reader.

```
FOLDER/
  clip_cache.json          arrays, encoders and records of the cache; `complete` is false until every part is written
  part-00000.npz           index of the part: clip ids, errors, checksums (NumPy, no pickles)
  part-00000-NAME.npy      one array per name with one row per clip: float16, or int32 for token ids
```

A cache omits clips that its features reproduce badly; `write_clip_features` counts these.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_pipeline.examples import ArraySpec, ExampleSize
from data_pipeline.features.encoder_identity import check_cache
from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-clip-features", 1
MANIFEST = "clip_cache.json"
_AGAIN = "remove the cache and make it again with 'smcd prepare --features MODEL'"


class ClipCache:
    """A complete cache, opened for reading; arrays are mapped, so that clips are read one by one. Thread-safe.

    Attributes:
        folder: Folder of the cache.
        manifest: Content of `clip_cache.json`.
        clip_ids: Clip ids by position.
        errors: Reconstruction error of each clip, by position.
    """

    def __init__(self, folder: str | Path, *, encoders: Mapping[str, str]):
        """Opens a cache.

        Args:
            folder: Folder of the cache.
            encoders: Hashes of the encoders that the arrays must come from (`encoder_identity`); others may differ.

        Raises:
            SMCDError: The folder holds no cache, or the cache is incomplete, damaged or made by other encoders.
        """
        self.folder = Path(folder)
        self.manifest = read_clip_manifest(self.folder)
        made_by = {name: value for name, value in self.manifest["encoders"].items() if name in encoders}
        check_cache(self.folder, {**self.manifest, "encoders": made_by}, encoders)
        indices = [read_part_index(self.folder, number) for number in range(self.manifest["parts"])]
        self.clip_ids = tuple(clip_id for index in indices for clip_id in index["clip_ids"])
        self.errors: Float32[np.ndarray, " n"] = np.concatenate([index["errors"] for index in indices])
        self._crc32 = [index["crc32"] for index in indices]
        self._ends = np.cumsum([len(index["clip_ids"]) for index in indices])
        self._arrays = [
            {name: self._open(number, name, len(index["clip_ids"])) for name in self.manifest["arrays"]}
            for number, index in enumerate(indices)
        ]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, position: int, name: str) -> np.ndarray:
        """Returns one array of the clip at a position.

        Raises:
            BadClip: The array does not match its checksum.
        """
        part = int(np.searchsorted(self._ends, position, side="right"))
        row = position - (int(self._ends[part - 1]) if part else 0)
        values = np.array(self._arrays[part][name][row])
        if zlib.crc32(values) != self._crc32[part][list(self.manifest["arrays"]).index(name), row]:
            raise BadClip(
                f"{self.folder}: {name} of {self.clip_ids[position]} does not match its checksum", kind="wrong checksum"
            )
        return values

    def _open(self, number: int, name: str, count: int) -> np.ndarray:
        path = array_path(self.folder, number, name)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SMCDError(f"{path}: missing or damaged ({error}); {_AGAIN}", path=path) from error
        wanted = (count, *self.manifest["arrays"][name])
        if array.shape != wanted:
            raise SMCDError(f"{path}: shape must be {wanted}, got {array.shape}; {_AGAIN}", path=path)
        return array


class ClipFeatureSource:
    """Examples of a clip cache (see `data_pipeline.examples.ExampleSource`)."""

    def __init__(self, cache: ClipCache, size: ExampleSize, names: tuple[str, ...]):
        """Wraps a cache.

        Args:
            cache: Clip cache of one split.
            size: Size of an example; its frames and its size in pixels must be those of the cache.
            names: Names of the arrays that examples hold.

        Raises:
            SMCDError: The cache was made for clips of another size, or lacks an array.
        """
        manifest = cache.manifest
        for key in ("frames", "height", "width"):
            if manifest[key] != getattr(size, key):
                raise SMCDError(
                    f"{cache.folder}: {key} of the feature cache must be {getattr(size, key)}, got {manifest[key]}; "
                    "make a cache of that size",
                    argument=key,
                    path=cache.folder,
                    value=manifest[key],
                )
        for name in names:
            if name not in manifest["arrays"]:
                raise SMCDError(f"{cache.folder}: the cache does not hold {name}", argument=name, path=cache.folder)
        records = manifest["records"]
        self.name, self.size = f"{records['name']} ({records['split']})", size
        self.clip_ids, self.num_frames = cache.clip_ids, np.full(len(cache), size.frames, np.int64)
        self._cache, self._names = cache, names

    def specs(self) -> dict[str, ArraySpec]:
        """See `ExampleSource.specs`."""
        shapes = self._cache.manifest["arrays"]
        kinds = {name: np.int32 if name.endswith("_ids") else np.float32 for name in self._names}
        return {name: ArraySpec(tuple(shapes[name]), kind) for name, kind in kinds.items()}

    def fill(self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64) -> int:
        """See `ExampleSource.fill`."""
        del start, key
        for name in self._names:
            row[name][...] = self._cache.read(clip, name)
        return 0


def read_clip_manifest(folder: Path) -> dict[str, Any]:
    """Reads `clip_cache.json`.

    Raises:
        SMCDError: The file is missing, or has another format or version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise SMCDError(
            f"{folder}: no feature cache of clips found ({MANIFEST} is missing); make one with 'smcd prepare "
            "--features MODEL --output RECORDS'",
            path=path,
        )
    content = read_json(path)
    for key, wanted in (("format", FORMAT), ("version", VERSION)):
        found = content.get(key) if isinstance(content, dict) else None
        if found != wanted:
            raise SMCDError(f"{path}: {key} must be {wanted!r}, got {found!r}; {_AGAIN}", argument=key, path=path)
    return content


def array_path(folder: Path, number: int, name: str) -> Path:
    """Returns the path of one array of a part."""
    return folder / f"part-{number:05d}-{name}.npy"


def index_path(folder: Path, number: int) -> Path:
    """Returns the path of a part's index, which is written last."""
    return folder / f"part-{number:05d}.npz"


def read_part_index(folder: Path, number: int) -> dict[str, Any]:
    """Reads the index of a part: ``clip_ids``, ``errors`` [n], ``crc32`` [arrays, n] and the number ``dropped``.

    Raises:
        SMCDError: The file is missing or damaged.
    """
    path = index_path(folder, number)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            text = archive["clip_ids"].tobytes().decode("utf-8")
            arrays = {key: archive[key] for key in ("errors", "crc32", "dropped", "unreadable")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SMCDError(f"{path}: missing or damaged ({error}); {_AGAIN}", path=path) from error
    return {"clip_ids": text.split("\n") if text else [], **arrays}
