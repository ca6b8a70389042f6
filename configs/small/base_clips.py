"""Stage 0 of the small model, second part: its temporal layers, on clips.

Command   smcd train --config configs/small/base_clips.py:128 --workdir runs/small_128/base_clips
Hardware  One GPU. `bash launch/train_small.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.small.common import folder, small_config


def get_config(size: str = "128") -> ConfigDict:
    config = small_config("base_clips", size, ("128",))
    config.model.unet.gate = "none"
    config.model.unet.image_latent = False
    config.model.position_net = None
    config.model.image_encoder = None
    config.init.model = f"{folder(size)}/base_pictures/model"
    config.trainable = (r"unet/.*/temporal(_conv)?/.*",)
    config.condition_dropout.text = 0.1
    config.data.batch_size = 32
    return config
