"""Hashes of a model's encoders, which tie a feature cache to the model that made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError


def encoder_identity(model: Path, encoders: Iterable[str]) -> dict[str, str]:
    """Returns the sha256 of some encoders and of the tokenizer of a model folder, by name.

    An encoder's hash covers its config and the checksums of its arrays, both as stored in the folder. Training other
    components does not change it. Only three small files are read.

    Args:
        model: Model folder.
        encoders: Names of the components that compute features.

    Raises:
        SMCDError: The folder is not a model folder, or the model lacks one of these encoders.
    """
    described, checksums = _read_json(model / "model.json"), _read_json(model / "checksums.json")
    identity = {}
    for name in sorted(encoders):
        config = described.get("components", {}).get(name)
        arrays = {key: value for key, value in checksums.items() if key.split("/", 1)[0] == name}
        if config is None or not arrays:
            raise SMCDError(
                f"{model}: the model has no {name}, which computes features; use a complete model folder",
                argument=name,
                path=model,
            )
        content = json.dumps({"config": config, "arrays": arrays}, sort_keys=True)
        identity[name] = hashlib.sha256(content.encode()).hexdigest()
    identity["tokenizer"] = hashlib.sha256(_read(model / "tokenizer" / "tokenizer.json")).hexdigest()
    return identity


def different_encoder(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Returns the first encoder whose hashes differ and the first digits of both hashes; None if all are equal."""
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            return f"{name} {ours.get(name, 'none')[:12]}, not {theirs.get(name, 'none')[:12]}"
    return None


def check_cache(folder: Path, manifest: Mapping[str, Any], encoders: Mapping[str, str]) -> None:
    """Checks that a cache is complete and was made with these encoders.

    Args:
        folder: Folder of the cache.
        manifest: Manifest of the cache.
        encoders: Hashes of the encoders that made it, as the user of the cache expects them.

    Raises:
        SMCDError: The cache is incomplete or was made with different encoders.
    """
    different = different_encoder(manifest["encoders"], encoders)
    if different:
        raise SMCDError(
            f"{folder}: the feature cache was made with different encoders ({different}); make one for this model in "
            "another folder with 'smcd prepare --features MODEL --features_output DIR'",
            argument="encoders",
            path=folder,
            value=different,
        )
    if not manifest["complete"]:
        raise SMCDError(
            f"{folder}: the feature cache is incomplete; rerun the 'smcd prepare --features' command that started it, "
            "which resumes the work",
            argument="complete",
            path=folder,
            value=False,
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SMCDError(f"{path}: cannot be read ({error.strerror}); use a complete model folder", path=path) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise SMCDError(
            f"{path}: not valid JSON ({error}); copy or convert the model folder again", path=path
        ) from error
    if not isinstance(content, dict):
        raise SMCDError(f"{path}: must hold a JSON object; copy or convert the model folder again", path=path)
    return content
