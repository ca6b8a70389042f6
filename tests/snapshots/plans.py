"""Counts of trained, frozen and sharded parameters, for one config of each stage, without parameter paths."""

from __future__ import annotations

import collections
import math
from typing import Any

import numpy as np

from tests.snapshots import adapters

MESH = ("mesh.fsdp=4", "mesh.tensor=2")
CASES = {
    "stage1_object": ("configs/smcd/stage1_object.py:tiny", MESH),
    "stage2_controlnet": ("configs/smcd/stage2_controlnet.py:tiny", MESH),
    "tiny_scene": ("configs/tiny/stage2_scene.py", MESH),
    "tiny_autoencoder": ("configs/tiny/autoencoder.py", MESH),
}


def summary(name: str) -> dict[str, Any]:
    """Returns mesh, batch, array and parameter counts by component and sharding, and the replicated share of bytes."""
    plan = adapters.plan_of(*CASES[name])
    components: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    shardings: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    replicated = total = 0
    for component, trained, shape, dtype, axes in plan["rows"]:
        size = math.prod(shape)
        role = "trained" if trained else "frozen"
        split = ", ".join(axes) if any(axis != "-" for axis in axes) else "whole"
        for table, key in ((components, f"{component}, {role}"), (shardings, f"{split}: {len(shape)} axes, {dtype}")):
            table[key][0] += 1
            table[key][1] += size
        total += size * np.dtype(dtype).itemsize
        replicated += size * np.dtype(dtype).itemsize * (split == "whole")
    return {
        "mesh": plan["mesh"],
        "batch": plan["batch"],
        "arrays and parameters by component": dict(sorted(components.items())),
        "arrays and parameters by sharding": dict(sorted(shardings.items())),
        "share of bytes whole on every device": round(replicated / total, 6),
    }
