"""Files of PyTorch tensors: .bin, .pth and .ckpt through torch, .safetensors without it. Reading runs no code."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically

_WRAPPERS = ("state_dict", "module")  # keys of the tensors in files of PyTorch Lightning and DeepSpeed


class LazyTensor:
    """A tensor of a file, whose values are read on request."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
        """``read`` returns the values."""
        self.shape = tuple(shape)
        self._read = read

    def numpy(self) -> np.ndarray:
        """Returns the values; for torch files a view of the mapped file, which copies nothing."""
        return self._read()


def open_tensors(path: Path) -> dict[str, LazyTensor]:
    """Returns the tensors of a file by name.

    A dictionary under "state_dict" (PyTorch Lightning) or "module" (DeepSpeed) counts as the content of the file.

    Args:
        path: A .safetensors file, or a file that `torch.load` reads, which needs torch.

    Raises:
        SMCDError: The file is missing, truncated or of another kind, or is a pickle that would run code, which is not
            run.
    """
    if not path.is_file():
        raise SMCDError(f"{path} is missing", path=path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    return _open_torch(path)


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], *, key: str = "") -> None:
    """Writes a file of tensors, which replaces an existing one when it is complete.

    Args:
        path: A .safetensors file, or one of another suffix that ``torch.save`` writes.
        tensors: C-contiguous arrays by name.
        key: Key of the dictionary under which ``torch.save`` puts the tensors; empty for the top level.

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
        torch.save({key: as_torch} if key else as_torch, temporary)


def find_tensor_file(folder: Path, *stems: str) -> Path | None:
    """Returns the first file of a folder with one of these stems, of any suffix of weights; None if there is none."""
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".bin", ".pth", ".ckpt")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def tensor_file(folder: Path, *stems: str) -> Path:
    """Returns the file of `find_tensor_file`.

    Raises:
        SMCDError: There is no such file; `path` is the folder and `value` the first stem.
    """
    if (found := find_tensor_file(folder, *stems)) is None:
        raise SMCDError(
            f"{folder} has no {stems[0]}.bin, .pth, .ckpt or .safetensors; check that it is the right folder and "
            "complete",
            path=folder,
            value=stems[0],
        )
    return found


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def values(tensors: Mapping[str, LazyTensor], dtype: Any = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yields names and arrays, cast to a dtype; scalars, which are gates, keep theirs."""
    for name, tensor in tensors.items():
        array = tensor.numpy()
        yield name, array if dtype is None or array.ndim == 0 else array.astype(dtype, copy=False)


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
    content = _load(torch, path)
    content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise SMCDError(f"{path} contains no tensors by name; give a file of weights", path=path)
    return {str(name): LazyTensor(tuple(value.shape), _torch_reader(torch, value)) for name, value in tensors.items()}


def _load(torch: Any, path: Path) -> Mapping[str, Any]:
    if path.stat().st_size == 0:
        raise SMCDError(f"{path} is empty; download it again", path=path)
    failures = (RuntimeError, ValueError, EOFError, KeyError, OSError, AttributeError, pickle.UnpicklingError)
    error: Exception | None = None
    for mmap in (True, False):  # files of torch before 1.6 cannot be mapped
        try:
            with warnings.catch_warnings():  # torch warns of pickle protocols that it then reads or refuses anyway
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
        reason = str(error).strip().split("\n")[0][:160]
        message = f"{path} is truncated or not a PyTorch file ({reason}); download it again"
        raise SMCDError(message, path=path) from error
    if not isinstance(content, Mapping):
        message = f"{path} must contain tensors by name, got {type(content).__name__}"
        raise SMCDError(message, path=path, value=type(content))
    return content


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
