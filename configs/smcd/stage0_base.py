"""Stage 0: text to video from scratch, without boxes and image, for models without a published base.

The published base (ModelScope) is converted instead; the recipe of the small model is configs/tiny/base.py.

Command   smcd train --config configs/smcd/stage0_base.py:tiny --workdir runs/base --config.data.records=records/mine
Starts    from an autoencoder (init.model) whose latents are cached; the text encoder is trained too
Hardware  as configs/smcd/stage2_scene.py; not run at full size
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
