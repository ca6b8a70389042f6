"""SMCD as a registered family: its networks by config class, presets and model."""

from __future__ import annotations

from smcd_jax.models.registry import Family, register_family
from smcd_jax.models.smcd.config import PRESETS, ModelConfig
from smcd_jax.models.smcd.model import SMCDModel

register_family(Family("smcd", ModelConfig, PRESETS, SMCDModel, conversion="smcd_jax.models.smcd.conversion"))
