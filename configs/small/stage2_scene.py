"""Stage 2 of the small model: position net, image encoder and the whole UNet, on clips. SIZE is 64 or 128.

At 64, the networks continue from those of `tiny`; at 128, image gates and image encoder start here. A quarter of the
clips starts without the objects or with other ones, and the image is dropped in many examples, so that the model needs
boxes and labels.

Command   smcd train --config configs/small/stage2_scene.py:SIZE --workdir runs/small_SIZE/scene
Hardware  64: 2 CPU cores; 128: one GPU. `bash launch/train_small.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.small.common import folder, small_config


def get_config(size: str = "64") -> ConfigDict:
    config = small_config("scene", size)
    config.init.model = f"{folder(size)}/object/model"
    if size == "128":
        config.init.from_scratch = ("image_encoder/.*", "unet/.*/gates/(image_gate|project_image)/.*")
        config.init.gates = 0.2
        config.loss.min_snr_gamma = 5.0
    config.trainable = ("image_encoder/.*", "position_net/.*", "unet/.*")
    config.condition_dropout.text = 0.1
    config.condition_dropout.boxes = 0.1
    config.condition_dropout.image_latent = 0.3 if size == "128" else 0.15
    config.condition_dropout.image_tokens = 0.3 if size == "128" else 0.15
    config.data.batch_size = 32 if size == "128" else 4
    return config
