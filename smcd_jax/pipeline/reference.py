"""Compares our networks with the official PyTorch ones on the same weights and the same inputs."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.conversion import ReferenceNetwork, get_conversion
from smcd_jax.nn.networks import unflatten
from smcd_jax.pipeline.verify import BROKEN, OK, WARNING, Finding

# Two float32 implementations of these networks agree to 1e-5 of the largest value; see tests/golden.
TOLERANCE = 1e-3


def compare_with_reference(folder: ModelFolder, checkout: Path) -> Iterator[Finding]:
    """Yields one finding for each network of the family for which official code exists.

    The checkout's Python code is executed, as it would be by importing it.

    Args:
        folder: Model folder.
        checkout: Folder of the official code, with torch and what it needs installed.

    Raises:
        SMCDError: There is no such folder, torch is missing, or there are no official networks for the family.
    """
    if not checkout.is_dir():
        raise SMCDError(f"{checkout}: no such folder; clone the official code", argument="reference", path=checkout)
    if importlib.util.find_spec("torch") is None:
        raise SMCDError("--reference needs PyTorch: pip install 'smcd_jax[convert]'", argument="reference")
    networks = get_conversion(folder.family).reference_networks(folder.config)
    if not networks:
        raise SMCDError(
            f"model family {folder.family.name} has no official networks to compare with; omit --reference",
            argument="reference",
            value=folder.family.name,
        )
    for reference in networks:
        yield _compared(reference, folder.leaves(reference.component), checkout)


def _compared(reference: ReferenceNetwork, leaves: Mapping[str, np.ndarray], checkout: Path) -> Finding:
    subject = f"reference: {reference.component}"
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in leaves.items()}
    try:
        theirs = _their_output(reference, leaves, checkout)
    except Exception as error:  # foreign code may raise anything; the report continues with the next network
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Finding(subject, WARNING, f"{reference.class_name} could not be run ({detail})", {"error": detail})
    ours = reference.ours(unflatten(leaves))
    if ours.shape != theirs.shape:
        return Finding(subject, BROKEN, f"shape {list(ours.shape)}, reference {list(theirs.shape)}")
    largest = float(np.abs(theirs).max())
    error = float(np.abs(ours - theirs).max() / max(largest, 1e-30))
    detail = (
        f"{reference.class_name} and ours differ by at most {error:.1e} of the largest value; norms "
        f"{np.linalg.norm(theirs):.5g} and {np.linalg.norm(ours):.5g}"
    )
    values = {"error": error, "largest": largest, "tolerance": TOLERANCE}
    return Finding(subject, OK if error < TOLERANCE else BROKEN, detail, values)


def _their_output(reference: ReferenceNetwork, leaves: Mapping[str, np.ndarray], checkout: Path) -> np.ndarray:
    import torch

    found = _find_class(reference.class_name, checkout)
    accepted = inspect.signature(found).parameters
    takes_any = any(part.kind is part.VAR_KEYWORD for part in accepted.values())
    arguments = {name: value for name, value in reference.arguments.items() if takes_any or name in accepted}
    module = found(**arguments).eval().float()
    state = {row.torch: torch.from_numpy(np.array(row.layout.to_torch(leaves[row.path]))) for row in reference.rows}
    left = module.load_state_dict(state, strict=False)
    missing = [name for name, _ in module.named_parameters() if name in left.missing_keys]
    if missing or left.unexpected_keys:
        raise ValueError(f"names differ: missing {missing[:3]}, unexpected {left.unexpected_keys[:3]}")
    inputs = {name: torch.from_numpy(value) for name, value in reference.inputs.items()}
    with torch.no_grad():
        return getattr(module, reference.method)(**inputs).numpy()


def _find_class(name: str, checkout: Path) -> Any:
    """Returns a class that is defined anywhere in the checkout.

    Raises:
        ValueError: No file defines it.
    """
    pattern = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    for path in sorted(checkout.rglob("*.py")):
        if pattern.search(path.read_text(encoding="utf-8", errors="replace")):
            break
    else:
        raise ValueError(f"no file in {checkout} defines class {name}")
    relative = path.relative_to(checkout).with_suffix("")
    sys.path.insert(0, str(checkout))
    try:
        return getattr(importlib.import_module(".".join(relative.parts)), name)
    finally:
        sys.path.remove(str(checkout))
