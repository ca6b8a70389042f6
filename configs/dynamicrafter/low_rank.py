r"""Low-rank adaptation of DynamiCrafter, or of any other family: updates of rank 16 to the attention of the UNet.

Command   smcd train --config configs/dynamicrafter/low_rank.py:dynamicrafter_512 --workdir runs/low_rank \
              --config.init.model=models/dynamicrafter_512 --config.data.records=records/mine
          smcd export --workdir runs/low_rank --adapter --output mine.safetensors
          smcd animate --model models/dynamicrafter_512 --adapter mine.safetensors --image picture.png
Trains    6.6 million parameters, a file of 27 MB, on top of 2,609 million frozen ones
"""

from ml_collections import ConfigDict

from configs.dynamicrafter.finetune import get_config as finetune


def get_config(preset: str = "dynamicrafter_512") -> ConfigDict:
    config = finetune(preset)
    config.name = "low_rank"
    config.low_rank.rank = 16
    config.trainable = ("low_rank/.*",)
    config.data.batch_size = 2
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.0
    config.run.steps = 5_000
    return config
