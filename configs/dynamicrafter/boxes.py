r"""DynamiCrafter that follows boxes: SMCD's object gates and position net, trained on converted weights.

Command   smcd train --config configs/dynamicrafter/boxes.py:dynamicrafter_512 --workdir runs/boxes \
              --config.init.model=models/dynamicrafter_512 --config.data.records=records/got10k,records/youtube_vis
Starts    from a converted model folder; gates start closed, so that training starts from the published model
Trains    gates and position net, 213 million parameters, as stage 1 of SMCD does; ":PRESET+unet" trains the temporal
          transformers too, 485 million
Layout    `smcd convert --to_torch` writes gates as gate_attn in each spatial block and position_net next to them
"""

from ml_collections import ConfigDict

from configs.dynamicrafter.finetune import TEMPORAL
from configs.dynamicrafter.finetune import get_config as finetune

UNET = "+unet"


def get_config(preset: str = "dynamicrafter_512") -> ConfigDict:
    config = finetune(preset.removesuffix(UNET))
    config.name = "boxes"
    width = config.model.text_encoder.width
    with config.ignore_type():
        config.model.position_net = ConfigDict({"label_width": width, "token_width": width})
    config.model.unet.gate = "object"
    config.model.unet.object_width = width
    config.model.max_objects = 8
    config.init.from_scratch = ("position_net/.*", "unet/.*/gates/.*")
    config.trainable = ("position_net/.*", "unet/.*/gates/.*")
    if preset.endswith(UNET):
        config.trainable += (f"unet/{TEMPORAL}.*",)
    config.condition_dropout = ConfigDict({"text": 0.1, "image_tokens": 0.1, "boxes": 0.1})
    config.optimizer.learning_rate = 3e-5
    config.run.steps = 60_000
    return config
