"""Manifest of a checkpoint: shape, dtype and checksum of every array, and a digest of every JSON item.

It is stored in the folder of the step as ``checksums/checksums.json`` and contains a digest of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.training.checkpoint.array_checksums import array_checksums

FORMAT, VERSION = "smcd-checkpoint", 1
ARRAY_ITEMS = ("params", "train")
JSON_FILES = {"data": "data.json", "config": "config.json", "checksums": "checksums.json"}  # file name by item


class DamagedStep(Exception):
    """A step differs from what was saved; the message says where. Never leaves the checkpoint package."""


class ArrayRecord(NamedTuple):
    """Shape, dtype name and checksum of one array as it was saved."""

    shape: tuple[int, ...]
    dtype: str
    checksum: str


class Manifest(NamedTuple):
    """Content of a checkpoint.

    Attributes:
        step: Step of the checkpoint.
        arrays: Records by item and array name.
        digests: Digests of the JSON items by item.
    """

    step: int
    arrays: dict[str, dict[str, ArrayRecord]]
    digests: dict[str, str]

    @classmethod
    def of(cls, step: int, arrays: Mapping[str, Mapping[str, jax.Array]], values: Mapping[str, Any]) -> Manifest:
        """Returns the manifest of a step to be saved; all processes must call it.

        Args:
            step: Step of the checkpoint.
            arrays: Arrays on their devices, by item and name.
            values: JSON values by item.
        """
        flat = {(item, name): array for item, named in arrays.items() for name, array in named.items()}
        checksums = array_checksums({"/".join(key): array for key, array in flat.items()})
        records = {item: {} for item in arrays}
        for (item, name), array in flat.items():
            records[item][name] = ArrayRecord(tuple(array.shape), array.dtype.name, checksums[f"{item}/{name}"])
        return cls(step, records, {item: digest(value) for item, value in values.items()})

    def to_json(self) -> dict[str, Any]:
        """Returns the content of the manifest file."""
        content = {"format": FORMAT, "version": VERSION, "step": self.step, "json": self.digests}
        content["arrays"] = {
            item: {name: {**record._asdict(), "shape": list(record.shape)} for name, record in named.items()}
            for item, named in self.arrays.items()
        }
        return {**content, "digest": digest(content)}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the manifest in the folder of a step.

        Raises:
            DamagedStep: The manifest is missing or damaged.
            SMCDError: The manifest has another format version.
        """
        content = read_json(folder, "checksums")
        claimed = content.pop("digest", None) if isinstance(content, dict) else None
        if claimed is None or claimed != digest(content):
            raise DamagedStep("checksums.json differs from its digest")
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise SMCDError(
                f"{folder}: checkpoint format must be {FORMAT} version {VERSION}, got {content.get('format')} version "
                f"{content.get('version')}; update smcd_jax",
                path=folder,
                value=content.get("version"),
            )
        arrays = {
            item: {
                name: ArrayRecord(tuple(record["shape"]), record["dtype"], record["checksum"])
                for name, record in named.items()
            }
            for item, named in content["arrays"].items()
        }
        return cls(content["step"], arrays, content["json"])

    def verified_json(self, folder: Path) -> dict[str, Any]:
        """Returns the JSON items by name.

        Raises:
            DamagedStep: An item is missing or damaged.
        """
        values = {item: read_json(folder, item) for item in self.digests}
        for item, value in values.items():
            if digest(value) != self.digests[item]:
                raise DamagedStep(f"{JSON_FILES[item]} differs from its checksum")
        return values

    def verify(self, item: str, arrays: Mapping[str, jax.Array]) -> None:
        """Compares the checksums of restored arrays with the saved ones; all processes must call it.

        Raises:
            DamagedStep: An array differs; raised on all processes.
        """
        saved, restored = self.arrays[item], array_checksums(arrays)
        wrong = [name for name in arrays if restored[name] != saved[name].checksum]
        if wrong:
            more = f" and {len(wrong) - 1} more arrays differ from their checksums" if len(wrong) > 1 else ""
            raise DamagedStep(f"array {item}/{wrong[0]} differs from its checksum{more}")


def read_json(folder: Path, item: str) -> Any:
    """Returns a JSON item of the step in ``folder``; raises `DamagedStep` if it is missing or truncated."""
    path = folder / item / JSON_FILES[item]
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedStep(f"{item}/{path.name} is missing") from error
    except PermissionError as error:
        raise SMCDError(f"{path}: cannot be read ({error.strerror}); fix its permissions", path=path) from error
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON
        raise DamagedStep(f"{item}/{path.name} cannot be read ({str(error)[:100]})") from error


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path, such as "optimizer/0/mu/unet/encoder_0/conv/kernel"."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the tree have the same path")
    return named


def describe(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Returns the shape and the dtype name of an array."""
    return tuple(leaf.shape), np.dtype(leaf.dtype).name
