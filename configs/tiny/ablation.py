"""The paper's comparison at small scale: ways to condition on boxes and image, after the same number of frames.

VARIANT is object (object gates only: boxes, no image), image (image gates only: image, boxes always dropped), zc, gca
or zc_gca (object gates, with the image through the input convolution, the image gates, or both), or joint (as zc_gca,
but in one stage from the base). All but joint start from stage 1; joint sees as many frames as both stages together.

Command   smcd train --config configs/tiny/ablation.py:VARIANT --workdir runs/ablation_tiny/VARIANT --config.seed=0
Hardware  2 CPU cores are enough. `bash launch/ablation.sh tiny` runs all variants and writes the table.
Expected  AO and other metrics of every variant in docs/ablation.md
"""

from ml_collections import ConfigDict

from configs.tiny.stage1_object import get_config as stage_1
from configs.tiny.stage2_scene import get_config as scene
from smcd_jax.errors import SMCDError

VARIANTS = ("object", "image", "zc", "gca", "zc_gca", "joint")


def get_config(variant: str = "zc_gca") -> ConfigDict:
    if variant not in VARIANTS:
        raise SMCDError(
            f"preset must be one of {', '.join(VARIANTS)}, got {variant!r}", argument="preset", value=variant
        )
    config = scene()
    config.name = f"tiny_ablation_{variant}"
    config.run.steps = 300
    config.run.sample_every = config.run.validate_every = 0
    without_tokens = variant in ("object", "zc")
    if without_tokens:
        config.model.unet.gate = "object"
        config.model.image_encoder = None
        config.init.from_scratch = ()
        config.trainable = ("unet/.*",)
    if variant in ("object", "image", "gca"):
        config.model.unet.image_latent = False
    if variant == "image":
        config.condition_dropout.boxes = 1.0
    if variant == "joint":
        config.run.steps += stage_1().run.steps  # both stages see 64 frames per step
        config.init.model = "runs/tiny/base_clips/model"
        config.init.from_scratch = ("position_net/.*", "image_encoder/.*", "unet/.*/gates/.*")
        config.trainable = ("position_net/.*", "image_encoder/.*", "unet/.*")
    return config
