"""Stage 2 of the small model: image gates, image encoder, input convolution and temporal layers, on clips.

The published stage 2 trains the blocks within the temporal transformers only, on top of a large base model; here all
temporal layers learn. The picture is left out of half the examples, or the model copies it and ignores the boxes.

Command   smcd train --config configs/tiny_scene.py --workdir runs/tiny/scene
Hardware  any; 2 CPU cores suffice. `bash launch/train_tiny.sh` runs all stages one after the other.
"""

from ml_collections import ConfigDict

from configs.tiny import tiny_config


def get_config() -> ConfigDict:
    config = tiny_config("tiny_scene")
    config.init.model = "runs/tiny/object/model"
    config.init.fresh = ("image_encoder/.*", "unet/.*/gates/(image_gate|project_image)/.*")
    config.init.gates = 0.2
    config.trained = (
        "image_encoder/.*",
        "unet/.*/gates/.*",
        "unet/encoder_0/conv/.*",
        r"unet/.*/temporal(_conv)?/.*",
    )
    config.drop.text = 0.1
    config.drop.boxes = 0.1
    config.drop.image_latent = 0.4
    config.drop.image_tokens = 0.3
    config.data.batch_size = 8
    config.run.steps = 2000
    config.run.save_every = 100
    return config
