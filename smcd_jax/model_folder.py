"""The model folder: every config, array, tokeniser file and checksum that sampling needs, in one place.

MODEL/model.json        format version, config of each component, where the weights came from
MODEL/params/           Orbax, one item per component
MODEL/tokenizer/        tokeniser files
MODEL/checksums.json    sha256 of every array, by "component/path/of/leaf"
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.models.registry import family_of, get_family
from smcd_jax.nn.networks import abstract_params, flatten, unflatten
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.weights.parameter_store import checksums, restore_leaves, save_leaves

FORMAT, VERSION = "smcd-model", 2
SHIPPED = ("tiny",)  # models that come with the package, by name


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the weights came from.

    Attributes:
        kind: "untrained", "converted" or "trained".
        note: one line for people.
        license: of the weights.
        sources: one entry per input file: component, file, sha256.
    """

    kind: str
    note: str = ""
    license: str = "unknown"
    sources: tuple[dict, ...] = ()


class ModelFolder:
    """A model folder opened for reading; arrays are read when asked for, one component at a time."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = resolve_model(path)
        content = _read_json(self.path / "model.json")
        if content.get("format") != FORMAT:
            raise SMCDError(f"{self.path}: model.json is not of a model folder (format {content.get('format')!r})")
        if content.get("version") != VERSION:
            raise SMCDError(
                f"{self.path}: format version {content.get('version')!r}; this release reads version {VERSION}. "
                "Update smcd_jax"
            )
        where = f"{self.path}/model.json"
        components, sampling = _object(content, "components", where), _object(content, "sampling", where)
        self.family = get_family(str(content.get("family")))
        self.config: Any = from_dict(self.family.config_class, {**components, **sampling}, path=where)
        # a component that is not named is absent, whatever the defaults say
        absent = {name: None for name in self.config.components() if name not in components}
        self.config = dataclasses.replace(self.config, **absent)
        self.origin: Origin = from_dict(Origin, {"kind": "unknown", **_object(content, "origin", where)}, path=where)
        self._checksums: dict[str, str] = _read_json(self.path / "checksums.json")

    @property
    def digest(self) -> str:
        """One hash for all arrays, to name the model by."""
        lines = "\n".join(f"{name} {value}" for name, value in sorted(self._checksums.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def tokenizer(self) -> Tokenizer:
        """The folder's own tokeniser."""
        return Tokenizer.from_folder(self.path / "tokenizer")

    def leaves(self, component: str, *, verify: bool = True) -> dict[str, np.ndarray]:
        """A component's arrays by path, as stored.

        Args:
            component: name of the component.
            verify: compare every array with its checksum.

        Raises:
            SMCDError: the component is absent; an array is missing, extra, misshapen, or differs from its checksum.
        """
        config = self.config.components().get(component)
        if config is None:
            raise SMCDError(f"{self.path}: the model has no {component}; it has {', '.join(self.config.components())}")
        try:
            expected = flatten(abstract_params(config))
        except Exception as error:  # numbers that fit no network fail in Flax and JAX, in as many ways as there are
            reason = " ".join(str(error).split())[:200]
            where = f"{self.path}/model.json"
            raise SMCDError(f"{where} describes no possible {component} ({reason}); convert it again") from error
        leaves = restore_leaves(self.path / "params" / component)
        _check_shapes(leaves, expected, where=f"{self.path}: {component}")
        if verify:
            self._verify(component, leaves)
        return leaves

    def params(self, component: str, *, dtype: Any = None, verify: bool = True) -> dict[str, Any]:
        """A component's parameter tree on the default device, cast to ``dtype`` but for scalars: gates stay float32."""
        leaves = self.leaves(component, verify=verify)
        placed = {}
        for path in list(leaves):
            leaf = leaves.pop(path)
            placed[path] = jax.device_put(leaf if dtype is None or leaf.ndim == 0 else leaf.astype(dtype, copy=False))
        return unflatten(placed)

    def _verify(self, component: str, leaves: Mapping[str, np.ndarray]) -> None:
        found = checksums(component, leaves)
        expected = {name: value for name, value in self._checksums.items() if name.split("/", 1)[0] == component}
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise SMCDError(
                f"{self.path}: {len(wrong)} arrays differ from checksums.json ({', '.join(wrong[:3])}{more}); the "
                "folder is damaged, copy or convert it again"
            )


def resolve_model(path: str | os.PathLike[str]) -> Path:
    """The folder of a model: a path, or the name of one that comes with the package ("tiny")."""
    folder = Path(path)
    if (folder / "model.json").is_file():
        return folder.resolve()
    if str(path) in SHIPPED:
        return Path(str(resources.files("smcd_jax") / "assets" / "models" / str(path)))
    if not folder.exists():
        raise SMCDError(
            f"no model at {path}: give a model folder (made by `smcd convert`), or one of: {', '.join(SHIPPED)}"
        )
    raise SMCDError(f"{path} is not a model folder: it has no model.json. Make one with `smcd convert`")


def write_model_folder(
    path: str | os.PathLike[str],
    config: Any,
    components: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    *,
    origin: Origin,
    tokenizer: Tokenizer | None = None,
    overwrite: bool = False,
) -> ModelFolder:
    """Writes a model folder; it appears under its name only when whole.

    Args:
        path: where to; must not exist unless ``overwrite``.
        config: every component it names must come.
        components: (name, arrays by path), one at a time, so that a generator need hold only one.
        origin: where the weights came from. A sequence in it may still grow while components are read.
        tokenizer: the published one by default.
        overwrite: replace an existing model folder.

    Raises:
        SMCDError: the path exists, the disk is full, or a component does not fit the config.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    with _partial_folder(path) as partial:
        digests: dict[str, str] = {}
        expected = config.components()
        for name, leaves in components:
            _check_shapes(leaves, flatten(abstract_params(expected.pop(name))), where=f"{path}: {name}")
            with ThreadPoolExecutor(1) as pool:  # hashing and writing side by side
                hashing = pool.submit(checksums, name, leaves)
                save_leaves(partial / "params" / name, leaves)
                digests |= hashing.result()
        if expected:
            raise SMCDError(f"{path}: no arrays for {', '.join(expected)}")
        (tokenizer or Tokenizer.published()).save(partial / "tokenizer")
        description = to_dict(config)
        parts = {name: description.pop(name) for name in config.components()}
        sampling = {name: value for name, value in description.items() if value is not None}
        content = {"format": FORMAT, "version": VERSION, "family": family_of(config).name}
        content |= {"components": parts, "sampling": sampling}
        content["origin"] = {**dataclasses.asdict(origin), "sources": list(origin.sources)}
        (partial / "model.json").write_text(json.dumps(content, indent=2) + "\n")
        (partial / "checksums.json").write_text(json.dumps(dict(sorted(digests.items())), indent=0) + "\n")
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    return ModelFolder(path)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuses a target that would lose something: an existing path, unless it is a model folder to overwrite."""
    if not path.exists():
        return
    if not overwrite:
        raise SMCDError(f"{path} exists already; give another --output, or --overwrite to replace it")
    if not (path / "model.json").is_file() and any(path.iterdir()):
        raise SMCDError(f"{path} is not a model folder, so it is not overwritten; give another --output")


def _check_shapes(leaves: Mapping[str, Any], expected: Mapping[str, Any], *, where: str) -> None:
    problems = {
        "missing": sorted(set(expected) - set(leaves)),
        "extra": sorted(set(leaves) - set(expected)),
        "of another shape": sorted(
            path for path in set(leaves) & set(expected) if tuple(leaves[path].shape) != tuple(expected[path].shape)
        ),
    }
    found = [f"{len(paths)} arrays {kind} ({', '.join(paths[:12])})" for kind, paths in problems.items() if paths]
    if found:
        raise SMCDError(f"{where}: {'; '.join(found)}; the folder does not fit its model.json")


@contextlib.contextmanager
def _partial_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that is removed unless it was renamed; a full disk becomes one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        raise SMCDError(f"cannot write {path}: {error.strerror}; choose another --output") from error
    try:
        partial.chmod(0o755)
        yield partial
    except OSError as error:
        raise SMCDError(f"cannot write {path}: {error.strerror or error}; nothing was left behind") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SMCDError(f"{path} is missing; the model folder is incomplete, copy or convert it again") from error
    except (OSError, ValueError) as error:
        raise SMCDError(f"{path} cannot be read ({error}); copy or convert the model folder again") from error
    if not isinstance(content, dict):
        raise SMCDError(f"{path} does not hold an object; copy or convert the model folder again")
    return content


def _object(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise SMCDError(f"{where}: {key} must be an object, not {value!r}; copy or convert the model folder again")
    return value
