"""Stage 1 of the small model: object gates and position net on single frames; only boxes give positions.

The published stage 1 trains nothing else. Here the spatial layers are trained too, because a base trained for a few
minutes is too weak to freeze. Gates start at 0.2, which speeds up training from scratch.

Command   smcd train --config configs/tiny/stage1_object.py --workdir runs/tiny/object
Hardware  2 CPU cores are enough. `bash launch/train_tiny.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.tiny.common import tiny_config


def get_config() -> ConfigDict:
    config = tiny_config("tiny_object")
    config.model.unet.gate = "object"
    config.model.unet.image_latent = False
    config.model.image_encoder = None
    config.init.model = "runs/tiny/base_clips/model"
    config.init.from_scratch = ("position_net/.*", "unet/.*/gates/.*")
    config.init.gates = 0.2
    config.trainable = ("position_net/.*", r"unet/(?!.*/temporal(_conv)?/).*")
    config.temporal = False
    config.condition_dropout.text = 0.1
    config.condition_dropout.boxes = 0.1
    config.data.frames = 1
    config.data.batch_size = 64
    config.run.steps = 1600
    return config
