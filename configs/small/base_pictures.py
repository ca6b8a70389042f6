"""Stage 0 of the small model, first part: text to single frames, with the text encoder.

Command   smcd train --config configs/small/base_pictures.py:128 --workdir runs/small_128/base_pictures
Hardware  One GPU. `bash launch/train_small.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.small.common import folder, small_config


def get_config(size: str = "128") -> ConfigDict:
    config = small_config("base_pictures", size, ("128",))
    config.model.unet.gate = "none"
    config.model.unet.image_latent = False
    config.model.position_net = None
    config.model.image_encoder = None
    config.init.model = f"{folder(size)}/autoencoder/model"
    config.init.from_scratch = ("unet/.*", "text_encoder/.*")
    config.trainable = ("unet/.*", "text_encoder/.*")
    config.temporal = False
    config.loss.min_snr_gamma = 5.0
    config.condition_dropout.text = 0.1
    config.optimizer.ema_decay = 0.0  # in a short stage, the average would lag behind the weights
    config.data.frames = 1
    config.data.batch_size = 128
    return config
