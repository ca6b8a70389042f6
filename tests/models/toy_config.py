"""Config file of the toy family: trains it from scratch on the records that the command line names."""

from ml_collections import ConfigDict

from smcd_jax.training.config import default_config
from tests.models import toy_family  # noqa: F401 - registers the family


def get_config() -> ConfigDict:
    """Returns a config that trains for four steps on 16 x 16 pictures."""
    config = default_config("toy")
    config.trainable = ("net/.*",)
    config.data.inputs = "video"
    config.data.frames, config.data.batch_size, config.data.threads = 2, 8, 1
    config.condition_dropout.picture = 0.1
    config.run.steps, config.run.log_every, config.run.save_every = 4, 1, 2
    config.run.validate_every, config.run.validation_examples = 2, 8
    config.run.sample_every, config.run.samples, config.run.sample_steps = 4, 1, 2
    config.run.tensorboard = False
    return config
