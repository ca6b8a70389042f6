"""Ways to condition on the first frame at 64 x 64 pixels, with ControlNet, after the same number of steps.

VARIANT is start, which trains the networks of stage 1 without the parts that read the picture, or a form of stage 2
from there: object (object gates alone: boxes, no picture), image (image gates alone: picture, boxes always dropped),
zc, gca or zc_gca (object gates, with the picture through the input convolution, the image gates, or both), or
controlnet (object gates, with the picture through a ControlNet). What reads the picture starts from scratch in all.

Command   smcd train --config configs/small/ablation.py:VARIANT --workdir runs/ablation_small/VARIANT
Hardware  2 CPU cores are enough. `bash launch/ablation.sh small` runs all variants and writes the table.
Expected  AO and other metrics of every variant in docs/ablation.md
"""

from ml_collections import ConfigDict

from configs.small.stage1_object import get_config as stage_1
from configs.small.stage2_scene import get_config as scene
from configs.smcd.stage2_controlnet import NEW, WIDER, add_controlnet
from smcd_jax.errors import SMCDError

VARIANTS = ("object", "image", "zc", "gca", "zc_gca", "controlnet")
STEM = "unet/encoder_0/conv/kernel"  # in runs/small_64, it also reads the picture


def get_config(variant: str = "zc_gca") -> ConfigDict:
    if variant not in ("start", *VARIANTS):
        raise SMCDError(
            f"preset must be one of {', '.join(('start', *VARIANTS))}, got {variant!r}",
            argument="preset",
            value=variant,
        )
    start = variant == "start"
    config = stage_1("64") if start else scene("64")
    config.name = f"small_ablation_{variant}"
    config.run.minutes = 0.0
    config.run.steps = 300 if start else 500
    config.run.validate_every = 0
    config.model.unet.image_latent = variant in ("zc", "zc_gca")
    if variant in ("image", "gca", "zc_gca"):
        config.init.from_scratch = ("image_encoder/.*", "unet/.*/gates/(image_gate|project_image)/.*")
        config.init.gates = 0.2
    else:
        config.model.unet.gate = "object"
        config.model.image_encoder = None
        config.trainable = tuple(pattern for pattern in config.trainable if pattern != "image_encoder/.*")
    if start:
        config.init.from_scratch = (STEM,)
        config.condition_dropout.image_latent = config.condition_dropout.image_tokens = 0.0
        return config
    config.init.model = "runs/ablation_small/start/model"
    if variant == "image":
        config.condition_dropout.boxes = 1.0
    if variant == "controlnet":
        add_controlnet(config)
        config.init.from_scratch = (NEW, WIDER)
        config.trainable = ("controlnet/.*", *config.trainable)
    return config
