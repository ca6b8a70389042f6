"""A full-size DynamiCrafter file of 10.4 GB, with formula weights and the real schedule tables, written array by array.

    python -m tests.full_size.dynamicrafter write FILE.safetensors [VARIANT] [KEYS]
    smcd convert --dynamicrafter FILE.safetensors --output MODEL
    python -m tests.full_size.dynamicrafter compare FILE.safetensors MODEL

``compare`` maps every array of the model folder back to its PyTorch name and compares it bit for bit with the file,
one component at a time, so that only one is in memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.dynamicrafter.config import PRESETS
from smcd_jax.models.dynamicrafter.conversion.table import component_rows
from smcd_jax.models.tables.schedule_tables import schedule_tables
from smcd_jax.weights.tensor_files import open_tensors
from tests.conftest import SHARED
from tests.golden.formula_weights import formula_weights


def tensors_of(shapes: Mapping[str, list[int]], variant: str) -> Iterator[np.ndarray]:
    """Yields the file's float32 tensors in the order of ``shapes``."""
    config = PRESETS[f"dynamicrafter_{variant}"]
    tables = schedule_tables(
        NoiseSchedule(
            prediction_type=config.prediction_type,
            rescale_zero_terminal_snr=config.zero_terminal_snr,
            dynamic_rescale=config.dynamic_rescale,
        )
    )
    for name, shape in shapes.items():
        if name in tables:
            yield tables[name]
        else:
            ((_, values),) = formula_weights("dynamicrafter.", {name: shape})
            yield values


def write_checkpoint(path: Path, keys: Path, variant: str) -> None:
    """Writes a safetensors file: the length of the header, the header as JSON, and then the arrays one by one."""
    shapes = json.loads((keys / f"checkpoint_{variant}.json").read_text())
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors_of(shapes, variant):
            file.write(values.tobytes())


def compare(path: Path, model: Path) -> int:
    """Returns the number of arrays that are not equal bit for bit, plus the number of names missing on either side."""
    tensors, folder, faults = open_tensors(path), ModelFolder(model), 0
    seen = set()
    for component, rows in component_rows(folder.config).items():
        leaves = folder.leaves(component)
        for row in rows:
            seen.add(row.torch)
            want, got = tensors[row.torch].numpy(), row.layout.to_torch(leaves.pop(row.path))
            faults += got.dtype != want.dtype or not np.array_equal(
                np.ascontiguousarray(got).reshape(-1).view(np.uint32), want.reshape(-1).view(np.uint32)
            )
    print(f"{len(seen)} of {len(tensors)} arrays compared, {faults} differ")
    return faults + len(seen ^ set(tensors))


if __name__ == "__main__":
    what, file, *more = sys.argv[1:]
    started = time.perf_counter()
    if what == "write":
        variant = more[0] if more else "512"
        keys = Path(more[1]) if len(more) > 1 else SHARED / "golden_dynamicrafter" / "keys"
        write_checkpoint(Path(file), keys, variant)
    elif compare(Path(file), Path(more[0])):
        sys.exit(1)
    print(f"{what}: {time.perf_counter() - started:.0f} s")
