"""Cache of plans on disk, by a hash of all that they depend on: config, topology, effort, versions and source code."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import smcd_jax
from smcd_jax import __version__
from smcd_jax.files.atomic import write_json
from smcd_jax.runtime.cache_folder import cache_folder

logger = logging.getLogger(__name__)

PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


class Found(NamedTuple):
    """A cached plan and the date on which it was made, as YYYY-MM-DD."""

    plan: dict[str, Any]
    cached_at: str


def folder() -> Path | None:
    """Returns ``$SMCD_CACHE_DIR/plans``, see `cache_folder`; None if there is no cache."""
    return cache_folder("plans")


def versions() -> dict[str, str]:
    """Returns the versions of the compilers and of this package, with a hash of its source code."""
    own = f"{__version__} {_source_hash()}"
    return {name: _version(name) for name in ("jax", "jaxlib", "libtpu", *PLUGINS)} | {"smcd_jax": own}


def key(request: dict[str, Any]) -> str:
    """Returns the hash of a request and of the installed versions."""
    text = json.dumps({**request, "versions": versions()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(request: dict[str, Any]) -> Found | None:
    """Returns the cached plan of a request, or None."""
    where = folder()
    file = None if where is None else where / f"{key(request)}.json"
    if file is None or not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Found(content["plan"], content["cached_at"])
    except (ValueError, KeyError) as error:
        logger.warning("%s is damaged (%s) and is recreated", file, error)
        return None


def write(request: dict[str, Any], plan: dict[str, Any]) -> None:
    """Writes a plan to the cache, or logs a warning if that fails."""
    where = folder()
    if where is None:
        return
    content = {**request, "versions": versions(), "cached_at": datetime.datetime.now(datetime.UTC).date().isoformat()}
    try:
        where.mkdir(parents=True, exist_ok=True)
        write_json(where / f"{key(request)}.json", {**content, "plan": plan})
    except OSError as error:
        logger.warning("the plan is not cached: %s cannot be written (%s)", where, error)


@functools.cache
def _source_hash() -> str:
    """Returns a hash of this package's modules: a changed model compiles to another program."""
    root, content = Path(smcd_jax.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        content.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return content.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
