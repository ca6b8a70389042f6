"""LVMM as a registered family: its networks by config class, presets and model."""

from __future__ import annotations

from smcd_jax.models.lvmm.config import (
    PRESETS,
    AppearanceConfig,
    LVMMConfig,
    PairMotionConfig,
    RegionMotionConfig,
)
from smcd_jax.models.lvmm.model import LVMMModel
from smcd_jax.models.lvmm.pair_motion import Appearance, PairMotion, RegionMotion
from smcd_jax.models.registry import Family, register_family
from smcd_jax.nn.networks import register_network

register_network(PairMotionConfig, PairMotion)
register_network(RegionMotionConfig, RegionMotion)
register_network(AppearanceConfig, Appearance)
register_family(Family("lvmm", LVMMConfig, PRESETS, LVMMModel))
