"""Stage 2 with the first frame through the input convolution alone (ZC, an ablation of the paper).

Command   smcd train --config configs/smcd/stage2_zc.py --workdir runs/stage2_zc --config.init.model=models/stage1
Starts    as configs/smcd/stage2_scene.py
"""

from ml_collections import ConfigDict

from configs.smcd.stage2_scene import TEMPORAL_BLOCKS
from configs.smcd.stage2_scene import get_config as scene


def get_config(preset: str = "smcd") -> ConfigDict:
    config = scene(preset)
    config.name = "stage2_zc"
    config.model.unet.gate = "object"
    config.model.image_encoder = None
    config.init.from_scratch = ()
    config.trainable = ("unet/encoder_0/conv/.*", TEMPORAL_BLOCKS)
    config.condition_dropout.image_tokens = 0.0
    return config
