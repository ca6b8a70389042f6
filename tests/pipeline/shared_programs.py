"""Shares compiled programs among a model's pipelines, so that only the first pipeline traces and compiles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest

from smcd_jax.pipeline.components import Components
from smcd_jax.runtime.compilation import Compiled

UNCHANGED = Components.program
_programs: dict[Any, dict[Any, Any]] = {}


def share_pipeline_programs(patch: pytest.MonkeyPatch) -> None:
    """Makes pipelines in this process that have the same config, dtypes and device share their compiled programs."""

    def program(self: Components, key: Any, function: Callable[..., Any]) -> Compiled:
        compiled = UNCHANGED(self, key, function)
        model = self._folder.config, self._folder.distilled, self._policy, jnp.zeros(()).device
        compiled._programs = _programs.setdefault((model, key), compiled._programs)
        return compiled

    patch.setattr(Components, "program", program)


def share_no_programs(patch: pytest.MonkeyPatch) -> None:
    """Makes every pipeline compile its own programs again."""
    patch.setattr(Components, "program", UNCHANGED)
