"""Stage 1 of the paper: object gates and position net on grounded still images, 256 x 256, up to 30 boxes.

Command   smcd train --config configs/smcd/stage1_object.py --workdir runs/stage1
          --config.init.model=models/modelscope --config.data.records=records/flickr,records/sbu
Starts    from a model folder of ModelScope text-to-video (`smcd convert --modelscope`)
Trains    213 of 1,977 million parameters; temporal layers are left out, because the data are still images
Hardware  see launch/README.md; the published run used 8 GPUs of 40 GB
"""

from ml_collections import ConfigDict

from smcd_jax.training.config import default_config


def get_config(preset: str = "smcd") -> ConfigDict:
    config = default_config(preset)
    config.name = "stage1_object"
    config.model.unet.gate = "object"
    config.model.unet.image_latent = False
    config.model.image_encoder = None
    config.model.max_objects = 30 if preset == "smcd" else 4
    config.init.from_scratch = ("position_net/.*", "unet/.*/gates/.*")
    config.trainable = ("position_net/.*", "unet/.*/gates/.*")
    config.temporal = False
    config.condition_dropout.boxes = 0.1
    config.condition_dropout.text = 0.5  # GLIGEN drops the captions of half the images
    config.data.inputs = "video"
    config.data.crop_keep = 0.9
    config.data.frames = 1
    config.data.batch_size = 64
    config.run.validate_every = config.run.sample_every = 0  # the grounded images have a single split
    config.optimizer.learning_rate = 3e-5
    config.remat = "blocks" if preset == "smcd" else "none"
    return config
