"""Settings that the stages of the small model share: sizes of its networks, data, schedule and moving average.

SIZE is 64, sized for a few hours on 2 CPU cores, or 128, sized for minutes on one GPU. Every stage runs for
``run.minutes``, which `bash launch/train_small.sh` sets; the learning rate follows the time.
"""

from ml_collections import ConfigDict

from smcd_jax.errors import SMCDError
from smcd_jax.training.config import default_config

NO_LIMIT = 10_000_000  # number of steps; the time limit ends a stage first


def check_size(size: str) -> int:
    """Returns the size in pixels."""
    if size not in ("64", "128"):
        raise SMCDError(f"preset must be 64 or 128, got {size!r}", argument="preset", value=size)
    return int(size)


def folder(size: str) -> str:
    """Returns the folder of records and runs."""
    return f"runs/small_{size}"


def small_config(name: str, size: str) -> ConfigDict:
    """Returns the defaults of a stage on cached latents; the text encoder runs in the step."""
    large = check_size(size) == 128
    config = default_config("tiny")
    config.name = f"small_{size}_{name}"
    config.data.records = (f"{folder(size)}/records",)
    config.data.inputs = "latents"
    _set_model(config.model, large=large)
    config.optimizer.learning_rate = 6e-4 if large else 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.end_lr_ratio = 0.02
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-3
    config.optimizer.ema_decay = 0.998
    config.dropout = False
    config.run.steps = NO_LIMIT
    config.run.minutes = 30.0
    config.run.log_every = 50 if large else 25
    config.run.validate_every = 500
    config.run.validation_examples = 128
    config.run.sample_every = 0
    config.run.samples = 8
    config.run.guidance_scale = 2.0
    config.run.save_every = 1000 if large else 250
    config.run.max_to_keep = 2
    config.run.tensorboard = False
    return config


def _set_model(model: ConfigDict, *, large: bool) -> None:
    """Sets networks for latents of 8 x 8 pixels (16 x 16 if large) with 24 channels, and texts of at most 40 tokens."""
    model.height = model.width = 128 if large else 64
    model.max_objects = 3
    model.autoencoder.patch = 4
    model.autoencoder.linear_shortcut = True
    model.autoencoder.latent_channels = 24
    model.autoencoder.base_channels = 128 if large else 64
    model.autoencoder.channel_mult = (1, 2)
    model.autoencoder.num_res_blocks = 2 if large else 1
    model.unet.latent_channels = 24
    model.unet.base_channels = 128 if large else 64
    model.unet.channel_mult = (1, 2, 2) if large else (1, 2)
    model.unet.num_res_blocks = 2 if large else 1
    model.unet.attention_scales = (1.0, 0.5, 0.25) if large else (1.0, 0.5)
    model.unet.head_dim = 32 if large else 16
    model.image_encoder.latent_channels = 24
    model.image_encoder.stages = (64, 128) if large else (32, 64)
    model.text_encoder.length = 40
