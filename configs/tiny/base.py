"""Stage 0 of the small model: text to video and its text encoder, trained from scratch without boxes or a picture.

Two runs: first single frames without temporal layers, then clips, on which only the temporal layers are trained.

Command   smcd train --config configs/tiny/base.py:pictures --workdir runs/tiny/base_pictures
          smcd train --config configs/tiny/base.py:clips --workdir runs/tiny/base_clips
Hardware  2 CPU cores are enough. `bash launch/train_tiny.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.tiny.common import tiny_config
from smcd_jax.errors import SMCDError


def get_config(part: str = "pictures") -> ConfigDict:
    if part not in ("pictures", "clips"):
        raise SMCDError(f"preset must be pictures or clips, got {part!r}", argument="preset", value=part)
    config = tiny_config(f"tiny_base_{part}")
    config.model.unet.gate = "none"
    config.model.unet.image_latent = False
    config.model.position_net = None
    config.model.image_encoder = None
    config.condition_dropout.text = 0.1
    if part == "pictures":
        config.init.model = "runs/tiny/autoencoder/model"
        config.init.from_scratch = ("unet/.*", "text_encoder/.*")
        config.trainable = ("unet/.*", "text_encoder/.*")
        config.temporal = False
        config.loss.min_snr_gamma = 5.0
        config.optimizer.ema_decay = 0.0  # the average would lag behind in so few steps
        config.data.frames = 1
        config.data.batch_size = 64
        config.run.steps = 400
    else:
        config.init.model = "runs/tiny/base_pictures/model"
        config.trainable = (r"unet/.*/temporal(_conv)?/.*",)
        config.data.batch_size = 8
        config.run.steps = 100
    return config
