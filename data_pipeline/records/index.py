"""Index of a split of records: location and checksum of every record and every frame.

`index-SPLIT.npz` (NumPy, no pickles) describes R records, ordered by position, with F frames in total:

| array           | type, shape | value                                                                              |
|-----------------|-------------|------------------------------------------------------------------------------------|
| `clip_ids`      | uint8       | Clip ids as UTF-8, separated by line breaks                                        |
| `shard`         | int32 [R]   | Index of the shard                                                                 |
| `offset`        | int64 [R]   | First byte of the record's data in the shard, after TFRecord's header of 12 bytes  |
| `length`        | int64 [R]   | Size of the record's data in bytes                                                 |
| `head_length`   | int64 [R]   | Size in bytes of its first part, all but the frames (`schema.serialize`)           |
| `head_crc32`    | uint32 [R]  | CRC-32 of that part                                                                |
| `frames`        | int32 [R]   | Number of frames, T                                                                |
| `objects`       | int32 [R]   | Number of objects, N                                                               |
| `frame_offset`  | int64 [F]   | First byte of each encoded frame in its shard; the frames of a record are adjacent |
| `frame_length`  | int64 [F]   | Size of the encoded frame in bytes                                                 |
| `frame_crc32`   | uint32 [F]  | CRC-32 of the encoded frame                                                        |

The frames of record p are the entries from `frames[:p].sum()` on, `frames[p]` of them, so a few frames of a long clip
are read and checked without reading the others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError

# Arrays of the index that each shard provides; `shard` is added when the shards are joined.
PER_RECORD = {
    "offset": np.int64,
    "length": np.int64,
    "head_length": np.int64,
    "head_crc32": np.uint32,
    "frames": np.int32,
    "objects": np.int32,
}
PER_FRAME = {"frame_offset": np.int64, "frame_length": np.int64, "frame_crc32": np.uint32}
INDEX_ARRAYS = {"shard": np.int32, **PER_RECORD, **PER_FRAME}


def index_path(folder: Path, split: str) -> Path:
    """Returns the path of a split's index."""
    return folder / f"index-{split}.npz"


def write_index(path: Path, clip_ids: list[str], arrays: dict[str, list[int]]) -> None:
    """Writes an index; equal content gives equal bytes. `path` must be a temporary name that ends in `.npz`."""
    text = np.frombuffer("\n".join(clip_ids).encode("utf-8"), np.uint8)
    typed = {key: np.array(arrays[key], dtype) for key, dtype in INDEX_ARRAYS.items()}
    np.savez(path, clip_ids=text, **typed)


def read_index(folder: Path, split: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads an index: its arrays by name, and the clip ids.

    Raises:
        SMCDError: The index is missing or damaged, or its arrays have inconsistent lengths.
    """
    path = index_path(folder, split)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in INDEX_ARRAYS}
            text = file["clip_ids"].tobytes().decode("utf-8")
    except Exception as error:  # zipfile and NumPy raise many types for damaged files
        raise SMCDError(f"{path}: missing or damaged ({error}); prepare the data set again", path=path) from error
    clip_ids = text.split("\n") if text else []
    frames = int(arrays["frames"].sum())
    wanted = {key: frames if key in PER_FRAME else len(clip_ids) for key in arrays}
    if any(arrays[key].shape != (size,) for key, size in wanted.items()):
        raise SMCDError(f"{path}: the arrays have inconsistent lengths; prepare the data set again", path=path)
    return arrays, clip_ids
