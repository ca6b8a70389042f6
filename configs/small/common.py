"""Settings that the stages of the small model share: sizes of its networks, data, schedule and moving average.

SIZE is 64 or 128. At 64, sized for a few hours on 2 CPU cores, training continues from the shipped model `tiny`,
which has the same networks and was trained on 32 x 32 pixels. At 128, sized for minutes on one GPU, larger networks are
trained from scratch, with base and object stage. Every stage runs for ``run.minutes``, which
`bash launch/train_small.sh` sets; the learning rate follows the time.
"""

from ml_collections import ConfigDict

from smcd_jax.errors import SMCDError
from smcd_jax.training.config import default_config

SIZES = ("64", "128")
NO_LIMIT = 10_000_000  # number of steps; the time limit ends a stage first


def folder(size: str) -> str:
    """Returns the folder of records and runs."""
    return f"runs/small_{size}"


def small_config(name: str, size: str, sizes: tuple[str, ...] = SIZES) -> ConfigDict:
    """Returns the defaults of a stage on cached latents; the text encoder runs in the step.

    Args:
        name: Name of the stage.
        size: Width and height in pixels.
        sizes: Sizes at which the stage is trained; others are refused.
    """
    if size not in sizes:
        raise SMCDError(f"preset must be {' or '.join(sizes)}, got {size!r}", argument="preset", value=size)
    large = size == "128"
    config = default_config("tiny")
    config.name = f"small_{size}_{name}"
    config.data.records = (f"{folder(size)}/records",)
    config.data.inputs = "latents"
    config.model.height = config.model.width = 128 if large else 64
    if large:
        _set_networks(config.model)
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


def _set_networks(model: ConfigDict) -> None:
    """Sets networks for latents of 16 x 16 pixels with 24 channels, and texts of at most 40 tokens."""
    model.max_objects = 3
    model.autoencoder.patch = 4
    model.autoencoder.linear_shortcut = True
    model.autoencoder.latent_channels = 24
    model.autoencoder.base_channels = 128
    model.autoencoder.num_res_blocks = 2
    model.autoencoder.channel_mult = (1, 2)
    model.unet.latent_channels = 24
    model.unet.base_channels = 128
    model.unet.channel_mult = (1, 2, 2)
    model.unet.num_res_blocks = 2
    model.unet.attention_scales = (1.0, 0.5, 0.25)
    model.unet.head_dim = 32
    model.image_encoder.latent_channels = 24
    model.image_encoder.stages = (64, 128)
    model.text_encoder.length = 40
