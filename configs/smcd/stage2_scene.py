"""Stage 2 of the paper (ZC + GCA): image gates, image encoder, input convolution and temporal blocks, on clips.

Command   smcd train --config configs/smcd/stage2_scene.py --workdir runs/stage2
          --config.init.model=models/stage1 --config.data.records=records/got10k,records/youtube_vis
Starts    from a model folder of stage 1 (`smcd export`), with features cached by the same encoders
Trains    662 of 2,391 million parameters, 8 frames of 256 x 256, up to 8 boxes; the published weights took 60,000 steps
Hardware  a TPU slice v5e:2x4 with --config.mesh.fsdp=8 --config.remat=none; others in launch/README.md
Memory    14.24 of 15.75 GiB per chip of v5e:2x4 at batch 16, computed by the TPU compiler (`smcd plan`); not measured
Time      0.24 s per step on v5e:2x4, estimated by that compiler (effort -1); not measured
"""

from ml_collections import ConfigDict

from smcd_jax.training.config import default_config

TEMPORAL_BLOCKS = "unet/(?!encoder_0/).*/temporal/block/.*"


def get_config(preset: str = "smcd") -> ConfigDict:
    config = default_config(preset)
    config.name = "stage2_scene"
    config.init.from_scratch = ("image_encoder/.*", "unet/.*/gates/(image_gate|project_image)/.*")
    config.trainable = (
        "image_encoder/.*",
        "unet/.*/gates/(image_gate|project_image)/.*",
        "unet/encoder_0/conv/.*",
        TEMPORAL_BLOCKS,
    )
    config.condition_dropout.boxes = 0.1
    config.condition_dropout.image_latent = 0.25
    config.condition_dropout.image_tokens = 0.1
    config.data.batch_size = 16
    config.optimizer.learning_rate = 5e-5
    config.remat = "blocks" if preset == "smcd" else "none"
    config.mesh.frozen, config.mesh.gather = "replicated", "step"
    return config
