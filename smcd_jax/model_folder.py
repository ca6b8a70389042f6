"""The model folder, which contains every config, array, tokenizer file and checksum that sampling needs.

MODEL/model.json        format version, family, config of each component, origin of the weights
MODEL/params/           arrays, one Orbax item per component
MODEL/tokenizer/        tokenizer files
MODEL/checksums.json    SHA-256 of every array, by "component/path/of/leaf"
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.files.text_files import read_json
from smcd_jax.models.distilled import Distilled, distilled_model
from smcd_jax.models.registry import family_of, get_family, make_model
from smcd_jax.models.video_model import VideoModel
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, flatten, unflatten
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.weights.parameter_store import checksums, restore_leaves, save_leaves

FORMAT, VERSION = "smcd-model", 2
SHIPPED = ("small", "tiny", "lvmm_tiny")  # names of the models shipped with the package


@dataclasses.dataclass(frozen=True)
class Origin:
    """Origin of the weights.

    Attributes:
        kind: "untrained", "converted", "trained" or "unknown".
        note: Description, as one line.
        license: License of the weights.
        sources: Component, file and SHA-256 of each input file.
    """

    kind: str
    note: str = ""
    license: str = "unknown"
    sources: tuple[dict, ...] = ()


class ModelFolder:
    """A model folder opened for reading.

    Attributes:
        path: Absolute path of the folder.
        family: Model family.
        config: Config of the model.
        distilled: Sampling settings of a distilled model; None for other models.
        origin: Origin of the weights.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the JSON files; arrays are read on request.

        Args:
            path: Model folder, or name of a model shipped with the package.

        Raises:
            SMCDError: There is no such folder, or a JSON file is missing, damaged or has another version.
        """
        self.path = resolve_model(path)
        where = self.path / "model.json"
        content = _read_json(where)
        if content.get("format") != FORMAT:
            message = f"{where}: format must be {FORMAT!r}, got {content.get('format')!r}; pass a model folder"
            raise SMCDError(message, argument="format", path=where, value=content.get("format"))
        if content.get("version") != VERSION:
            raise SMCDError(
                f"{where}: version must be {VERSION}, got {content.get('version')!r}; install the release of smcd_jax "
                "that wrote the folder, or convert the weights again",
                argument="version",
                path=where,
                value=content.get("version"),
            )
        components, sampling = _object(content, "components", where), _object(content, "sampling", where)
        self.family = get_family(str(content.get("family")))
        self.config: Any = from_dict(self.family.config_class, {**components, **sampling}, path=where)
        # a component that the file does not name is absent, although the config class has a default for it
        absent = {name: None for name in self.config.components() if name not in components}
        self.config = dataclasses.replace(self.config, **absent)
        described = _object(content, "distilled", where)
        self.distilled: Distilled | None = from_dict(Distilled, described, path=where) if described else None
        self.origin: Origin = from_dict(Origin, {"kind": "unknown", **_object(content, "origin", where)}, path=where)
        self._checksums: dict[str, str] = _read_json(self.path / "checksums.json")

    def model(self, policy: ComputePolicy | None = None) -> VideoModel:
        """Returns the model with a compute policy, by default one that computes in float32."""
        model = make_model(self.config, policy)
        return model if self.distilled is None else distilled_model(model, self.distilled)

    @property
    def digest(self) -> str:
        """SHA-256 over the checksums of all arrays, which identifies the weights."""
        lines = "\n".join(f"{name} {value}" for name, value in sorted(self._checksums.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer of the folder."""
        return Tokenizer.from_folder(self.path / "tokenizer")

    def leaves(self, component: str, *, verify: bool = True) -> dict[str, np.ndarray]:
        """Returns the arrays of a component by path, as stored.

        Args:
            component: Name of the component.
            verify: Whether every array is compared with its checksum.

        Raises:
            SMCDError: The model has no such component, or an array is missing, unexpected, of another shape, or differs
                from its checksum.
        """
        config = self.config.components().get(component)
        if config is None:
            known = ", ".join(self.config.components())
            message = f"{self.path}: the model has no component {component}; it has {known}"
            raise SMCDError(message, argument="component", path=self.path, value=component)
        try:
            expected = flatten(abstract_params(config))
        except Exception as error:  # Flax and JAX raise many types of exceptions for invalid sizes
            reason = " ".join(str(error).split())[:200]
            where = self.path / "model.json"
            message = f"{where}: the config of {component} is invalid ({reason}); convert the weights again"
            raise SMCDError(message, argument=component, path=where) from error
        leaves = restore_leaves(self.path / "params" / component)
        _check_shapes(component, leaves, expected, path=self.path)
        if verify:
            self._verify(component, leaves)
        return leaves

    def params(self, component: str, *, dtype: Any = None, verify: bool = True) -> dict[str, Any]:
        """Returns the parameter tree of a component on the default device.

        Args:
            component: Name of the component.
            dtype: Dtype of the arrays; None keeps the stored one. Scalars, which are gates, always keep theirs.
            verify: Whether every array is compared with its checksum.

        Raises:
            SMCDError: The model has no such component, or an array is missing, damaged or of another shape.
        """
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
                "folder is damaged, copy or convert it again",
                argument="checksums",
                path=self.path,
                value=wrong,
            )


def resolve_model(path: str | os.PathLike[str]) -> Path:
    """Returns the folder of a model.

    Args:
        path: Model folder, or name of a model shipped with the package, such as "tiny".

    Raises:
        SMCDError: There is no model folder at the path.
    """
    folder = Path(path)
    if (folder / "model.json").is_file():
        return folder.resolve()
    if str(path) in SHIPPED:
        return Path(str(resources.files("smcd_jax") / "assets" / "models" / str(path)))
    if not folder.exists():
        message = f"no model at {path}: give a model folder (made by `smcd convert`), or one of: {', '.join(SHIPPED)}"
        raise SMCDError(message, argument="model", path=path)
    message = f"{path} is not a model folder: it has no model.json; make one with `smcd convert`"
    raise SMCDError(message, argument="model", path=path)


def write_model_folder(
    path: str | os.PathLike[str],
    config: Any,
    components: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    *,
    origin: Origin | Callable[[], Origin],
    tokenizer: Tokenizer | None = None,
    distilled: Distilled | None = None,
    overwrite: bool = False,
) -> ModelFolder:
    """Writes a model folder and returns it; the folder gets its final name only once it is complete.

    Args:
        path: Folder to write.
        config: Config of the model.
        components: Name and arrays by path of each component of the config. They are read one component at a time, so a
            generator needs memory for only one.
        origin: Origin of the weights, or a function that returns it once all components are written.
        tokenizer: Tokenizer of the model; the published one by default.
        distilled: Sampling settings of a distilled model.
        overwrite: Whether an existing model folder is replaced.

    Raises:
        SMCDError: The path exists, the disk is full, or a component does not fit the config.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    with _partial_folder(path) as partial:
        digests: dict[str, str] = {}
        expected = config.components()
        for name, leaves in components:
            _check_shapes(name, leaves, flatten(abstract_params(expected.pop(name))), path=path)
            with ThreadPoolExecutor(1) as pool:  # hashing and writing at the same time
                hashing = pool.submit(checksums, name, leaves)
                save_leaves(partial / "params" / name, leaves)
                digests |= hashing.result()
        if expected:
            missing = list(expected)
            message = f"{path}: components {', '.join(missing)} have no arrays"
            raise SMCDError(message, argument="components", path=path, value=missing)
        (tokenizer or Tokenizer.published()).save(partial / "tokenizer")
        description = to_dict(config)
        parts = {name: description.pop(name) for name in config.components()}
        sampling = {name: value for name, value in description.items() if value is not None}
        content = {"format": FORMAT, "version": VERSION, "family": family_of(config).name}
        content |= {"components": parts, "sampling": sampling}
        content |= {} if distilled is None else {"distilled": to_dict(distilled)}
        known = origin() if callable(origin) else origin
        content["origin"] = {**dataclasses.asdict(known), "sources": list(known.sources)}
        (partial / "model.json").write_text(json.dumps(content, indent=2) + "\n")
        (partial / "checksums.json").write_text(json.dumps(dict(sorted(digests.items())), indent=0) + "\n")
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    return ModelFolder(path)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Checks that writing a model folder would not destroy other files.

    Raises:
        SMCDError: The path exists, and it is not a model folder or ``overwrite`` is False.
    """
    if not path.exists():
        return
    if not overwrite:
        hint = "choose another --output, or replace it with --overwrite"
        raise SMCDError(f"{path} already exists; {hint}", argument="output", path=path)
    if not (path / "model.json").is_file() and any(path.iterdir()):
        hint = "choose another --output"
        raise SMCDError(f"{path} is not a model folder, so it is not replaced; {hint}", argument="output", path=path)


def _check_shapes(component: str, leaves: Mapping[str, Any], expected: Mapping[str, Any], *, path: Path) -> None:
    problems = {
        "missing": sorted(set(expected) - set(leaves)),
        "unexpected": sorted(set(leaves) - set(expected)),
        "of another shape": sorted(
            leaf for leaf in set(leaves) & set(expected) if tuple(leaves[leaf].shape) != tuple(expected[leaf].shape)
        ),
    }
    problems = {kind: paths for kind, paths in problems.items() if paths}
    if problems:
        lists = [f"{len(paths)} arrays {kind} ({', '.join(paths[:12])})" for kind, paths in problems.items()]
        message = f"{path}: {component}: {'; '.join(lists)}; the arrays do not fit the config"
        raise SMCDError(message, argument=component, path=path, value=problems)


@contextlib.contextmanager
def _partial_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside ``path``, which is removed at the end unless it has been renamed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; choose another --output"
        raise SMCDError(message, argument="output", path=path) from error
    try:
        partial.chmod(0o755)
        yield partial
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}; the partial folder has been removed"
        raise SMCDError(message, argument="output", path=path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    hint = "copy or convert the model folder again"
    try:
        content = read_json(path)
    except SMCDError as error:
        raise error.reworded(f"{error}; {hint}") from error
    if not isinstance(content, dict):
        raise SMCDError(f"{path} must contain an object; {hint}", path=path)
    return content


def _object(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        message = f"{path}: {key} must be an object, got {value!r}; copy or convert the model folder again"
        raise SMCDError(message, argument=key, path=path, value=value)
    return value
