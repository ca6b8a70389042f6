"""From picture, prompt and tracks to video."""

from smcd_jax.pipeline.pipeline import SMCDPipeline, VideoOutput

__all__ = ["SMCDPipeline", "VideoOutput"]
