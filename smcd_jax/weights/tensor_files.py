"""Files of PyTorch tensors: .bin, .pth and .ckpt through torch, .safetensors without it. Reading runs no code."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.files.placeholders import check_is_content, check_not_dangling
from smcd_jax.files.text_files import read_json

logger = logging.getLogger(__name__)

# Keys of the tensors in files of training frameworks, by preference; the first two are those of PyTorch Lightning and
# DeepSpeed.
_WRAPPERS = (
    *("state_dict", "module", "model_state_dict", "model", "params_ema", "ema", "model_ema", "params", "unet", "net"),
    *("generator", "weights"),
)
_DEEPEST = 4  # largest number of dictionaries nested around the tensors
# Prefixes that DistributedDataParallel, torch.compile, DeepSpeed and enclosing modules add to every name.
_PREFIXES = (
    *("module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "model.diffusion_model."),
    *("diffusion_model.", "model.", "unet."),
)
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_VARIANTS = ("fp32", "fp16", "bf16", "non_ema")
_NUMBERED = re.compile(r"(?P<stem>.+)-00001-of-(?P<count>\d{5})\.[a-z]+")
_MAX_PICKLE = 64 << 20  # in bytes; the names and shapes of the largest models take a few MB


class LazyTensor:
    """A tensor of a file, whose values are read on request."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
        """Creates a tensor whose values ``read`` returns."""
        self.shape, self._read = tuple(shape), read

    def numpy(self) -> np.ndarray:
        """Returns the values; for torch files a view of the mapped file, which copies nothing."""
        return self._read()


def open_tensors(path: Path) -> dict[str, LazyTensor]:
    """Returns the tensors of a file by name.

    If the tensors are in a dictionary under a key such as "state_dict" (PyTorch Lightning) or "module" (DeepSpeed),
    that dictionary is read. A prefix that all names share, such as "module." (DistributedDataParallel), "_orig_mod."
    (torch.compile) or "model.diffusion_model." (LDM), is removed. Both are logged as notes.

    Args:
        path: A .safetensors file, a file that `torch.load` reads, which needs torch, an index of several of them
            (.index.json), or the first of several files named STEM-00001-of-0000N.

    Raises:
        SMCDError: The file is missing, truncated or of another kind, or is a pickle that would run code, which is not
            run.
    """
    check_not_dangling(path)
    if not path.is_file():
        raise SMCDError(f"{path} is missing", path=path)
    tensors: dict[str, LazyTensor] = {}
    for part in _parts(path):
        check_not_dangling(part)
        if not part.is_file():
            raise SMCDError(f"{part}: missing, although {path.name} needs it; download it again", path=part)
        check_is_content(part)
        tensors |= _open_safetensors(part) if part.suffix == ".safetensors" else _open_torch(part)
    return _without_prefix(tensors, path)


def open_groups(path: Path, groups: Sequence[str]) -> tuple[dict[str, LazyTensor], list[str]]:
    """Returns the tensors of several dictionaries of one file, and its other keys; raises the errors of `open_tensors`.

    Names have the form KEY.NAME: the key of the dictionary and the name in it. Names in .safetensors have this form.
    """
    check_not_dangling(path)
    if not path.is_file():
        raise SMCDError(f"{path} is missing", path=path)
    check_is_content(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path), []
    torch = _torch(path, hint="use weights in .safetensors")
    content = _load(torch, path)
    found = {f"{group}.{name}": value for group in groups for name, value in (content.get(group) or {}).items()}
    return _lazy(torch, found), [str(key) for key in content if key not in groups]


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], *, key: str = "", groups: Sequence[str] = ()) -> None:
    """Writes a file of tensors; an existing file is replaced only once the new one is complete.

    Args:
        path: A .safetensors file, or a file with any other suffix, which ``torch.save`` writes.
        tensors: C-contiguous arrays by name.
        key: Key of the dictionary under which ``torch.save`` puts the tensors; empty for the top level.
        groups: Keys of several dictionaries, as `open_groups` reads them; ``key`` is then not used.

    Raises:
        SMCDError: Torch is needed and is not installed, or the file cannot be written.
    """
    with write_atomically(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(dict(tensors), temporary)
            return
        torch = _torch(path, hint="use --format safetensors")
        as_torch = {name: _torch_tensor(torch, array) for name, array in tensors.items()}
        parts = {group: {} for group in groups}
        for group, name in (name.split(".", 1) for name in as_torch if groups):
            parts[group][name] = as_torch[f"{group}.{name}"]
        torch.save(parts or ({key: as_torch} if key else as_torch), temporary)


def find_tensor_file(folder: Path, *stems: str) -> Path | None:
    """Returns the first file of a folder with one of these stems and a suffix of weight files, or None.

    Single files come first, then indices of several files (STEM.safetensors.index.json), several files without an
    index, and variants such as STEM.fp16.safetensors, for which a note is logged.
    """
    for stem in stems:
        for suffix in _SUFFIXES:
            if os.path.lexists(folder / f"{stem}{suffix}"):
                return folder / f"{stem}{suffix}"
    for stem in stems:
        for suffix in _SUFFIXES:
            for pattern in (f"{stem}{suffix}.index.json", f"{stem}-00001-of-*{suffix}"):
                found = sorted(folder.glob(pattern))
                if found:
                    return found[0]
    for stem in stems:
        for suffix in _SUFFIXES:
            for variant in (*_VARIANTS, "*"):
                patterns = (
                    f"{stem}.{variant}{suffix}",
                    f"{stem}.{variant}{suffix}.index.json",
                    f"{stem}{suffix}.index.{variant}.json",
                )
                found = [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]
                if found:
                    logger.warning("%s: read in place of %s%s, which is missing", found[0], stem, suffix)
                    return found[0]
    return None


def tensor_file(folder: Path, *stems: str) -> Path:
    """Returns the file that `find_tensor_file` finds.

    Raises:
        SMCDError: There is no such file; `path` is the folder and `value` the first stem.
    """
    if (found := find_tensor_file(folder, *stems)) is None:
        held = sorted(entry.name for entry in folder.iterdir())[:8] if folder.is_dir() else []
        holds = f"it holds {', '.join(held)}" if held else "it is empty or missing"
        raise SMCDError(
            f"{folder} has no {stems[0]}.bin, .pth, .ckpt or .safetensors ({holds}); check that it is the right folder "
            "and complete",
            path=folder,
            value=stems[0],
        )
    return found


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file; for an index or a numbered set, the SHA-256 of the hashes of all its files."""
    parts = _parts(path)
    if parts == [path]:
        return _sha256(path)
    return hashlib.sha256("".join(_sha256(part) for part in parts).encode()).hexdigest()


def values(tensors: Mapping[str, LazyTensor], dtype: Any = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yields names and arrays, cast to a dtype; scalars, which are gates, keep their dtype."""
    for name, tensor in tensors.items():
        array = tensor.numpy()
        yield name, array if dtype is None or array.ndim == 0 else array.astype(dtype, copy=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parts(path: Path) -> list[Path]:
    """Returns the files that hold the tensors: those of an index or of a numbered set, else the file itself."""
    if path.suffix == ".json":
        content = read_json(path)
        names = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise SMCDError(f"{path}: not an index of weight files; weight_map must map names to files", path=path)
        files = sorted(set(names.values()))
        for name in files:
            if Path(name).name != name:  # an index must not name files outside its folder
                message = f"{path}: names {name!r}, which is outside its folder; download it again"
                raise SMCDError(message, path=path, value=name)
        return [path.with_name(name) for name in files]
    match = _NUMBERED.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    return [path.with_name(f"{match['stem']}-{part:05d}-of-{count:05d}{path.suffix}") for part in range(1, count + 1)]


def _without_prefix(tensors: dict[str, LazyTensor], path: Path) -> dict[str, LazyTensor]:
    """Returns the tensors without prefixes that training or sampling code puts before every name."""
    removed = ""
    while tensors and (
        prefix := next((text for text in _PREFIXES if all(name.startswith(text) for name in tensors)), None)
    ):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        removed += prefix
    if removed:
        logger.warning("%s: the prefix %s of all names is removed", path, removed)
    return tensors


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise SMCDError(f"{path} is not a readable safetensors file ({error}); download it again", path=path) from error
    return {name: LazyTensor(shape, lambda name=name: file.get_tensor(name)) for name, shape in shapes.items()}


def _open_torch(path: Path) -> dict[str, LazyTensor]:
    torch = _torch(path, hint="use weights in .safetensors")
    content = _unwrapped(torch, _load(torch, path), path)
    tensors = _lazy(torch, content)
    if not tensors:
        raise SMCDError(f"{path} contains no named tensors; pass a file of weights", path=path)
    return tensors


def _lazy(torch: Any, content: Mapping[str, Any]) -> dict[str, LazyTensor]:
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    return {name: LazyTensor(tuple(value.shape), _torch_reader(torch, value)) for name, value in tensors.items()}


def _unwrapped(torch: Any, content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Returns the dictionary of tensors within a file of a training framework; its key is logged."""
    for _ in range(_DEEPEST):
        inner = [key for key, value in content.items() if isinstance(value, Mapping) and value]
        known = [key for key in _WRAPPERS if key in inner]
        if not known and any(isinstance(value, torch.Tensor) for value in content.values()):
            return content
        holding = [key for key in inner if any(isinstance(part, torch.Tensor) for part in content[key].values())]
        if not known and len(holding) != 1:
            return content
        key = known[0] if known else holding[0]
        if key not in _WRAPPERS[:2]:
            logger.warning("%s: the tensors under %r are read", path, key)
        content = content[key]
    return content


def _check_zip(path: Path) -> None:
    """Rejects an archive that unpacks to more bytes than the file has; torch stores arrays uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # an older PyTorch file, or a damaged one, which torch reports
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    pickles = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if packed or pickles > _MAX_PICKLE or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise SMCDError(
            f"{path}: the archive is compressed or has too large a pickle, unlike files of PyTorch; download it again",
            path=path,
            value=packed[0] if packed else pickles,
        )


def _load(torch: Any, path: Path) -> Mapping[str, Any]:
    if path.stat().st_size == 0:
        raise SMCDError(f"{path} is empty; download it again", path=path)
    _check_zip(path)
    failures = (RuntimeError, ValueError, EOFError, KeyError, OSError, AttributeError, pickle.UnpicklingError)
    error: Exception | None = None
    for mmap in (True, False):  # files of torch before 1.6 cannot be mapped
        try:
            with warnings.catch_warnings():  # torch warns about protocols even where it then reads or rejects them
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            break
        except failures as failure:
            if "Weights only load failed" in str(failure) and "GLOBAL" in str(failure):
                raise SMCDError(
                    f"{path} contains Python objects other than tensors, which could run code; nothing was run. Get "
                    "the weights as .safetensors or as a plain state_dict",
                    path=path,
                ) from failure
            error = failure
    else:
        size = path.stat().st_size
        message = f"{path} is truncated or not a PyTorch file ({_kind(path)}, {size:,} bytes); download it again"
        raise SMCDError(message, path=path, value=size) from error
    if not isinstance(content, Mapping):
        message = f"{path} must contain a dictionary of tensors, got {type(content).__name__}"
        raise SMCDError(message, path=path, value=type(content))
    return content


def _kind(path: Path) -> str:
    """Returns what the first bytes of a file look like, as text."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK"):
        return "the end of the archive is missing or damaged"
    if start[8:10] == b'{"':
        return "it looks like safetensors; give it that suffix"
    return f"it begins with {start!r}"


def _torch(path: Path, *, hint: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise SMCDError(f"{path} needs PyTorch: pip install 'smcd_jax[convert]', or {hint}", path=path) from error
    return torch


def _torch_reader(torch: Any, tensor: Any) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    return read


def _torch_tensor(torch: Any, array: np.ndarray) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
