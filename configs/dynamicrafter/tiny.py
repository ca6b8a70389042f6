"""The small DynamiCrafter on sprites: image to video, loops and interpolation, and boxes.

PART is image, interp, or boxes. The first two start from the UNet of the shipped model "tiny", without its gates, and
keep its autoencoder and text tower. The image tower is random and is not trained (its tokens still distinguish
pictures); the resampler and the image attention start from scratch.

boxes adds gates and a position net, both from scratch, to the model that interp trained, and conditions every frame on
the first one. `configs/dynamicrafter/boxes.py` trains only these; here the UNet is trained too, because it is too weak
to freeze.

Command   smcd prepare sprites --output runs/dynamicrafter_tiny/records
          smcd train --config configs/dynamicrafter/tiny.py:interp --workdir runs/dynamicrafter_tiny/interp
Hardware  any; 2 CPU cores are enough. `bash launch/train_dynamicrafter_tiny.sh` runs all parts in order.
"""

from ml_collections import ConfigDict

from smcd_jax.errors import SMCDError
from smcd_jax.training.config import default_config

PARTS = ("image", "interp", "boxes")
SCRATCH = ("resampler/.*", "image_tower/.*", "unet/.*")


def get_config(part: str = "image") -> ConfigDict:
    if part not in PARTS:
        raise SMCDError(f"preset must be one of {', '.join(PARTS)}, got {part!r}", argument="preset", value=part)
    config = default_config("dynamicrafter_tiny")
    config.name = f"tiny_{part}"
    config.data.records = ("runs/dynamicrafter_tiny/records",)
    config.data.inputs = "video"
    config.data.batch_size = 8 if part == "boxes" else 4
    config.init.model = "tiny"
    config.init.from_scratch = SCRATCH
    config.trainable = ("unet/.*", "resampler/.*")
    rates = {"text": 0.1, "image_tokens": 0.1}
    config.model.interpolation = part == "interp"
    if part == "boxes":
        with config.ignore_type():
            config.model.position_net = ConfigDict({"label_width": 64, "token_width": 64, "hidden_width": 64})
        config.model.unet.gate = "object"
        config.model.max_objects = 4
        config.model.condition_frame = "first"
        config.init.model = "runs/dynamicrafter_tiny/interp/model"
        config.init.from_scratch = ("position_net/.*", "unet/.*/gates/.*")
        config.init.gates = 0.2
        config.trainable += ("position_net/.*",)
        rates["boxes"] = 0.1
    config.condition_dropout = ConfigDict(rates)
    config.dropout = False
    config.optimizer.learning_rate = 1e-3 if part == "boxes" else 7e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.end_lr_ratio = 0.05
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-3
    config.optimizer.ema_decay = 0.995
    config.run.steps = 1500 if part == "boxes" else 4000
    config.run.validate_every = 500
    config.run.sample_every = 0
    config.run.save_every = 200
    return config
