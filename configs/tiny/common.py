"""Settings that the stages of the small model share: data, learning-rate schedule and moving average."""

from ml_collections import ConfigDict

from smcd_jax.training.config import default_config

RECORDS = "runs/tiny/records"


def tiny_config(name: str) -> ConfigDict:
    """Returns the defaults of a stage on cached latents; the text encoder runs in the step."""
    config = default_config("tiny")
    config.name = name
    config.data.records = (RECORDS,)
    config.data.inputs = "latents"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.end_lr_ratio = 0.05
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-3
    config.optimizer.ema_decay = 0.998
    config.dropout = False
    config.run.log_every = 50
    config.run.validate_every = 400
    config.run.validation_examples = 128
    config.run.sample_every = 1000
    config.run.samples = 8
    config.run.guidance_scale = 2.0
    config.run.save_every = 250
    config.run.max_to_keep = 2
    return config
