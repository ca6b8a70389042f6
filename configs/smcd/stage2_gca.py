"""Stage 2 with the first frame through the image gates alone (GCA, an ablation of the paper).

Command   smcd train --config configs/smcd/stage2_gca.py --workdir runs/stage2_gca --config.init.model=models/stage1
Starts    as configs/smcd/stage2_scene.py
"""

from ml_collections import ConfigDict

from configs.smcd.stage2_scene import TEMPORAL_BLOCKS
from configs.smcd.stage2_scene import get_config as scene


def get_config(preset: str = "smcd") -> ConfigDict:
    config = scene(preset)
    config.name = "stage2_gca"
    config.model.unet.image_latent = False
    config.trainable = ("image_encoder/.*", "unet/.*/gates/(image_gate|project_image)/.*", TEMPORAL_BLOCKS)
    config.condition_dropout.image_latent = 0.0
    return config
