"""The autoencoder of the small model, from scratch, on single frames of the sprite data set.

Command   smcd train --config configs/tiny/autoencoder.py --workdir runs/tiny/autoencoder
Hardware  2 CPU cores are enough. `bash launch/train_tiny.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from smcd_jax.training.config import default_config


def get_config() -> ConfigDict:
    config = default_config("tiny")
    config.name = "tiny_autoencoder"
    config.objective = "autoencoder"
    config.trainable = ("autoencoder/.*",)
    config.data.records = ("runs/tiny/records",)
    config.data.inputs = "video"
    config.data.frames = 1
    config.data.batch_size = 32
    config.loss.kl_weight = 1e-3
    config.loss.edge_weight = 0.5
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.0
    config.optimizer.ema_decay = 0.995
    config.run.steps = 900
    config.run.sample_every = 0
    return config
