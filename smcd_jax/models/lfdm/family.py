"""LFDM as a registered family: its model and the conversion of its files."""

from __future__ import annotations

from smcd_jax.models.lfdm.config import LFDMConfig
from smcd_jax.models.lfdm.model import LFDMModel
from smcd_jax.models.registry import Family, register_family

register_family(Family("lfdm", LFDMConfig, {}, LFDMModel, conversion="smcd_jax.models.lfdm.conversion"))
