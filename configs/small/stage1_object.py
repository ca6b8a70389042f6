"""Stage 1 of the small model: object gates, position net, text encoder and spatial layers on single frames.

SIZE is 64 or 128. At 64, the networks continue from those of `tiny`, without picture; they learn the size and fourteen
further classes. At 128, gates and position net start here; as in `configs/tiny/stage1_object.py`, gates start at 0.2.

Command   smcd train --config configs/small/stage1_object.py:SIZE --workdir runs/small_SIZE/object
Hardware  64: 2 CPU cores; 128: one GPU. `bash launch/train_small.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.small.common import folder, small_config


def get_config(size: str = "64") -> ConfigDict:
    config = small_config("object", size)
    if size == "64":
        config.init.model = f"{folder(size)}/autoencoder/model"
        spatial = r"unet/(?!.*/(temporal|temporal_conv|image_gate|project_image)/).*"
        config.condition_dropout.image_latent = config.condition_dropout.image_tokens = 1.0
    else:
        config.model.unet.gate = "object"
        config.model.unet.image_latent = False
        config.model.image_encoder = None
        config.init.model = f"{folder(size)}/base_clips/model"
        config.init.from_scratch = ("position_net/.*", "unet/.*/gates/.*")
        config.init.gates = 0.2
        spatial = r"unet/(?!.*/(temporal|temporal_conv)/).*"
        config.loss.min_snr_gamma = 5.0
    config.trainable = ("position_net/.*", "text_encoder/.*", spatial)
    config.temporal = False
    config.condition_dropout.text = 0.1
    config.condition_dropout.boxes = 0.1
    config.data.frames = 1
    config.data.batch_size = 128 if size == "128" else 32
    return config
