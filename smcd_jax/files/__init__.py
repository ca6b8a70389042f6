"""Reading and writing files: atomic writes, and readers of text, JSON and configs whose errors name file and place."""

from __future__ import annotations

from smcd_jax.files.atomic import write_atomically, write_folder_atomically, write_json, write_text

__all__ = ["write_atomically", "write_folder_atomically", "write_json", "write_text"]
