"""Stage 0: text to video from scratch, without boxes and picture, for models that have no published base.

Command   smcd train --config configs/smcd/stage0_base.py:tiny --workdir runs/base --config.data.records=records/mine
Starts    from nothing but an autoencoder (init.model) whose latents are cached; the text tower is trained along
The published base (ModelScope) is converted instead; the small model's own recipe is in configs/tiny/base.py.
"""

from ml_collections import ConfigDict

from smcd_jax.training.config import default_config


def get_config(preset: str = "smcd") -> ConfigDict:
    config = default_config(preset)
    config.name = "stage0_base"
    config.model.unet.gate = "none"
    config.model.unet.image_latent = False
    config.model.position_net = None
    config.model.image_encoder = None
    config.init.from_scratch = ("unet/.*", "text_encoder/.*")
    config.trainable = ("unet/.*", "text_encoder/.*")
    config.condition_dropout.text = 0.1
    config.data.inputs = "latents"
    config.data.batch_size = 16
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 1000
    config.optimizer.ema_decay = 0.9999
    config.loss.min_snr_gamma = 5.0
    config.remat = "blocks" if preset == "smcd" else "none"
    return config
