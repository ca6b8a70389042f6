r"""Stage 2 with the first frame through a ControlNet (an ablation of the paper).

The copy of the UNet's encoder is frozen; its hint and zero convolutions are trained. Decoder layers that read the wider
skip connections have other shapes than in stage 1, so they start from scratch and are trained too.

Command   smcd train --config configs/smcd/stage2_controlnet.py --workdir runs/stage2_cn \
              --config.init.model=models/stage1
Starts    as configs/smcd/stage2_scene.py
"""

from ml_collections import ConfigDict

from configs.smcd.stage2_scene import TEMPORAL_BLOCKS
from configs.smcd.stage2_scene import get_config as scene

WIDER = "unet/decoder_[0-9]+/residual/(conv_in/kernel|norm_in/(scale|bias)|skip/(kernel|bias))"
NEW = "controlnet/(hint_conv|zero_conv_[0-9]+)/.*"


def get_config(preset: str = "smcd") -> ConfigDict:
    config = scene(preset)
    config.name = "stage2_controlnet"
    add_controlnet(config)
    config.init.from_scratch = (NEW, WIDER)
    config.trainable = (NEW, WIDER, TEMPORAL_BLOCKS)
    config.condition_dropout.image_latent = 0.0
    return config


def add_controlnet(config: ConfigDict) -> None:
    """Changes the model of a config of stage 2: the first frame enters through a ControlNet alone."""
    config.model.unet.gate = "object"
    config.model.unet.image_latent = False
    config.model.image_encoder = None
    config.model.unet.control = True
    # a copy of the UNet's encoder without gates and image latent
    unet = {**config.model.unet.to_dict(), "gate": "none", "image_latent": False, "control": False}
    with config.ignore_type():
        config.model.controlnet = ConfigDict({"unet": unet})
