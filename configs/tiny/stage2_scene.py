"""Stage 2 of the small model: image gates, image encoder, input convolution and temporal layers, on clips.

The published stage 2 freezes the rest of a large UNet; here the whole UNet is trained, with position net and text
encoder frozen. The image is dropped in many examples; otherwise the model copies it and ignores the boxes.

Command   smcd train --config configs/tiny/stage2_scene.py --workdir runs/tiny/scene
Hardware  2 CPU cores are enough. `bash launch/train_tiny.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.tiny.common import tiny_config


def get_config() -> ConfigDict:
    config = tiny_config("tiny_scene")
    config.init.model = "runs/tiny/object/model"
    config.init.from_scratch = ("image_encoder/.*", "unet/.*/gates/(image_gate|project_image)/.*")
    config.init.gates = 0.2
    config.trainable = ("image_encoder/.*", "unet/.*")
    config.condition_dropout.text = 0.1
    config.condition_dropout.boxes = 0.1
    config.condition_dropout.image_latent = 0.4
    config.condition_dropout.image_tokens = 0.3
    config.data.batch_size = 8
    config.optimizer.warmup_steps = 30
    config.run.sample_every = 500
    config.run.log_every = 25
    config.run.steps = 2500
    config.run.save_every = 100
    return config
