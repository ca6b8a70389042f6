"""Reading and writing files: atomic writes, text and JSON readers whose errors name file and line."""

from __future__ import annotations

from smcd_jax.files.atomic import write_atomically, write_folder_atomically, write_json

__all__ = ["write_atomically", "write_folder_atomically", "write_json"]
