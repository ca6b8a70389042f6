"""From picture, prompt and tracks to video."""

from smcd_jax.pipeline.pipeline import VideoOutput, VideoPipeline

__all__ = ["VideoOutput", "VideoPipeline"]
