"""Plans on disk, by a hash of all that they depend on: the config, the topology, the effort, and versions."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from smcd_jax import __version__
from smcd_jax.files.atomic import write_json
from smcd_jax.runtime.cache_folder import cache_folder

logger = logging.getLogger(__name__)


class Found(NamedTuple):
    """A plan and the day it was made."""

    plan: dict[str, Any]
    since: str


def folder() -> Path | None:
    """``$SMCD_CACHE_DIR/plans``, by default ``~/.cache/smcd_jax/plans``; None where ``SMCD_CACHE_DIR`` is empty."""
    return cache_folder("plans")


def versions() -> dict[str, str]:
    """Of what makes a program: the compilers and the code."""
    return {name: _version(name) for name in ("jax", "jaxlib", "libtpu")} | {"smcd_jax": __version__}


def key(asked: dict[str, Any]) -> str:
    """The hash of what was asked for, with the versions of this installation."""
    text = json.dumps({**asked, "versions": versions()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(asked: dict[str, Any]) -> Found | None:
    """The plan that was kept of what is asked for, if there is one."""
    where = folder()
    file = None if where is None else where / f"{key(asked)}.json"
    if file is None or not file.is_file():
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Found(kept["plan"], kept["since"])
    except (ValueError, KeyError) as error:
        logger.warning("%s is damaged (%s) and is recreated", file, error)
        return None


def write(asked: dict[str, Any], plan: dict[str, Any]) -> None:
    """Keeps a plan."""
    where = folder()
    if where is None:
        return
    since = datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        where.mkdir(parents=True, exist_ok=True)
        write_json(where / f"{key(asked)}.json", {**asked, "versions": versions(), "since": since, "plan": plan})
    except OSError as error:
        logger.warning("the plan is not kept: %s cannot be written (%s)", where, error)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
