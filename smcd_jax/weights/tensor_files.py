"""Files of PyTorch tensors: .bin and .pth through torch, .safetensors without it. Reading executes nothing."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from smcd_jax.errors import SMCDError


class LazyTensor:
    """A tensor of a file: its shape and dtype now, its values as a numpy array when asked."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
        self.shape = tuple(shape)
        self._read = read

    def numpy(self) -> np.ndarray:
        """The values; for torch files a view of the mapped file, so that nothing is copied."""
        return self._read()


def open_tensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file by name; a dictionary under "state_dict" counts as the file's content.

    Args:
        path: .safetensors, or anything `torch.load` reads (then torch is needed).

    Raises:
        SMCDError: missing, truncated or of another kind; a pickle that would run code is refused and does not run.
    """
    if not path.is_file():
        raise SMCDError(f"{path} is missing")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    return _open_torch(path)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise SMCDError(f"{path} is not a readable safetensors file ({error}); download it again") from error
    return {name: LazyTensor(shape, lambda name=name: file.get_tensor(name)) for name, shape in shapes.items()}


def _open_torch(path: Path) -> dict[str, LazyTensor]:
    try:
        import torch
    except ImportError as error:
        raise SMCDError(
            f"{path.name} needs PyTorch to be read: pip install 'smcd_jax[convert]', or give the weights as "
            ".safetensors"
        ) from error
    content = _load(torch, path)
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise SMCDError(f"{path} holds no tensors by name; it is not a file of weights")
    return {str(name): LazyTensor(tuple(value.shape), _torch_reader(torch, value)) for name, value in tensors.items()}


def _load(torch: Any, path: Path) -> Mapping[str, Any]:
    import pickle

    if path.stat().st_size == 0:
        raise SMCDError(f"{path} is empty; download it again")
    failures = (RuntimeError, ValueError, EOFError, KeyError, OSError, AttributeError, pickle.UnpicklingError)
    error: Exception | None = None
    for mmap in (True, False):  # files of torch before 1.6 cannot be mapped
        try:
            with warnings.catch_warnings():  # torch warns of pickle protocols that it then reads or refuses anyway
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            break
        except pickle.UnpicklingError as failure:
            if "Weights only load failed" in str(failure) and "GLOBAL" in str(failure):
                raise SMCDError(
                    f"{path} holds Python objects besides tensors, which could run code when read; refused, nothing "
                    "was executed. Get the weights as .safetensors or as a plain state_dict"
                ) from failure
            error = failure
        except failures as failure:
            error = failure
    else:
        reason = str(error).strip().split("\n")[0][:160]
        raise SMCDError(f"{path} is truncated or not a PyTorch file ({reason}); download it again") from error
    if not isinstance(content, Mapping):
        raise SMCDError(f"{path} holds {type(content).__name__}, not tensors by name; it is not a file of weights")
    return content


def _torch_reader(torch: Any, tensor: Any) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    return read


def values(tensors: Mapping[str, LazyTensor], dtype: Any = None) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays, cast once; scalars (gates) stay float32."""
    for name, tensor in tensors.items():
        array = tensor.numpy()
        yield name, array if dtype is None or array.ndim == 0 else array.astype(dtype, copy=False)
