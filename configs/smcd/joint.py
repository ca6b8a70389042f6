"""Both stages at once, on clips: the one-stage training that the paper compares with.

Command   smcd train --config configs/smcd/joint.py --workdir runs/joint --config.init.model=models/modelscope
Starts    from a model folder of ModelScope text-to-video, with features cached by the same encoders
Hardware  as configs/smcd/stage2_scene.py; not run at full size
"""

from ml_collections import ConfigDict

from configs.smcd.stage2_scene import TEMPORAL_BLOCKS
from configs.smcd.stage2_scene import get_config as scene


def get_config(preset: str = "smcd") -> ConfigDict:
    config = scene(preset)
    config.name = "joint"
    config.init.from_scratch = ("position_net/.*", "image_encoder/.*", "unet/.*/gates/.*")
    config.trainable = (
        "position_net/.*",
        "image_encoder/.*",
        "unet/.*/gates/.*",
        "unet/encoder_0/conv/.*",
        TEMPORAL_BLOCKS,
    )
    return config
