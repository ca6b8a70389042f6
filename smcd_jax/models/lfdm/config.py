"""Config of a model folder with the published networks of LFDM or MRAA."""

from __future__ import annotations

import dataclasses

from smcd_jax.models.config import VideoConfig
from smcd_jax.models.leftovers import LeftoversConfig
from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
    RendererConfig,
)
from smcd_jax.models.lvmm.unet_config import MotionUNetConfig


@dataclasses.dataclass(frozen=True)
class LFDMConfig(VideoConfig):
    """Config of each component (None if the folder lacks it), and the size of videos.

    The renderer and the flow predictor sample with ``align_corners=False``, as the weights were trained.

    Attributes:
        region_predictor: Network that finds regions in a picture.
        flow_predictor: Network that composes a motion field from regions.
        renderer: Network that renders a picture with a motion field.
        background_predictor: Network of the background's motion; None for a background that does not move.
        unet: LFDM's network that denoises motion fields; None for a flow autoencoder alone.
        autoencoder_leftovers: Unused arrays of the flow autoencoder's file, kept for conversion back to PyTorch.
        unet_leftovers: Unused arrays of the diffusion model's file.
        frames: Number of frames of the published sampling.
        height: Height in pixels.
        width: Width in pixels.
        max_objects: Largest number of boxes per frame, which the model does not use.
        fps: Frames per second of the videos written.
    """

    region_predictor: RegionPredictorConfig = RegionPredictorConfig()
    flow_predictor: FlowPredictorConfig = FlowPredictorConfig(align_corners=False)
    renderer: RendererConfig = RendererConfig(align_corners=False, without_occlusion="replace")
    background_predictor: BackgroundPredictorConfig | None = None
    unet: MotionUNetConfig | None = None
    autoencoder_leftovers: LeftoversConfig | None = None
    unet_leftovers: LeftoversConfig | None = None
    frames: int = 40
    height: int = 128
    width: int = 128
    max_objects: int = 1
    fps: int = 10

    @property
    def size_multiple(self) -> int:
        """Number of pixels that must divide height and width."""
        predictors = (self.region_predictor, self.flow_predictor)
        return max(2**self.renderer.levels, *(round(2**part.levels / part.scale) for part in predictors))
