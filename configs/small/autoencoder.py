"""The autoencoder of the small model on single frames: that of `tiny` at 64, one from scratch at 128.

Command   smcd train --config configs/small/autoencoder.py:SIZE --workdir runs/small_SIZE/autoencoder
Hardware  64: 2 CPU cores; 128: one GPU. `bash launch/train_small.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.small.common import small_config


def get_config(size: str = "64") -> ConfigDict:
    config = small_config("autoencoder", size)
    config.objective = "autoencoder"
    config.trainable = ("autoencoder/.*",)
    if size == "64":
        config.init.model = "tiny"
    config.data.inputs = "video"
    config.data.frames = 1
    config.data.batch_size = 32 if size == "128" else 8  # early sharpness depends on the number of steps
    # At 128, a larger weight would bring every channel to the same variance, see `cosine_code`.
    config.loss.kl_weight = 1e-5 if size == "128" else 1e-4
    config.loss.edge_weight = 0.5
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.ema_decay = 0.998
    return config
