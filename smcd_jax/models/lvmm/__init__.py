"""LVMM (CVPR 2024) and LFDM (CVPR 2023): image animation by motion fields that a diffusion model samples."""

from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
    RendererConfig,
)
from smcd_jax.models.lvmm.motion_unet import MotionUNet
from smcd_jax.models.lvmm.predictors import BackgroundPredictor, FlowPredictor, RegionPredictor
from smcd_jax.models.lvmm.renderer import Renderer
from smcd_jax.models.lvmm.unet_config import MotionUNetConfig
from smcd_jax.nn.networks import register_network

register_network(MotionUNetConfig, MotionUNet)
register_network(RegionPredictorConfig, RegionPredictor)
register_network(BackgroundPredictorConfig, BackgroundPredictor)
register_network(FlowPredictorConfig, FlowPredictor)
register_network(RendererConfig, Renderer)
