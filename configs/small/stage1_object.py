"""Stage 1 of the small model: object gates, position net and spatial layers on single frames.

As in `configs/tiny/stage1_object.py`, spatial layers are trained too and gates start at 0.2.

Command   smcd train --config configs/small/stage1_object.py:128 --workdir runs/small_128/object
Hardware  One GPU. `bash launch/train_small.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.small.common import folder, small_config


def get_config(size: str = "128") -> ConfigDict:
    config = small_config("object", size, ("128",))
    config.model.unet.gate = "object"
    config.model.unet.image_latent = False
    config.model.image_encoder = None
    config.init.model = f"{folder(size)}/base_clips/model"
    config.init.from_scratch = ("position_net/.*", "unet/.*/gates/.*")
    config.init.gates = 0.2
    config.trainable = ("position_net/.*", "text_encoder/.*", r"unet/(?!.*/temporal(_conv)?/).*")
    config.temporal = False
    config.loss.min_snr_gamma = 5.0
    config.condition_dropout.text = 0.1
    config.condition_dropout.boxes = 0.1
    config.data.frames = 1
    config.data.batch_size = 128
    return config
