"""DynamiCrafter as a registered family: its networks by config class, presets and model."""

from __future__ import annotations

from smcd_jax.models.dynamicrafter.config import PRESETS, ModelConfig
from smcd_jax.models.dynamicrafter.requests import DynamiCrafterModel
from smcd_jax.models.registry import Family, register_family

register_family(
    Family("dynamicrafter", ModelConfig, PRESETS, DynamiCrafterModel, "smcd_jax.models.dynamicrafter.conversion")
)
