"""The three trained stages of LVMM at the sizes of the paper: fields of 128 x 128 for pictures of 512 x 512.

STAGE is motion (field between two frames, and renderer), motion_vae (autoencoder of fields) or diffusion (motion of a
picture, on latents cached by `smcd prepare --features`). Between them, `launch/motion_measures.py scales` gives the
values of field_scale and scaling_factor. No such run has been made: the sizes and the optimizer are the paper's, whose
stages took 256 and 64 days of an A100 on 10.7 million videos, with a perceptual loss that needs VGG19 weights.

Command   smcd train --config configs/lvmm/stages.py:STAGE --workdir runs/lvmm/STAGE --config.data.records=RECORDS
Hardware  the paper used 32 A100. `smcd plan --config configs/lvmm/stages.py:STAGE` shows the memory of a step.
"""

from ml_collections import ConfigDict

from smcd_jax.errors import SMCDError
from smcd_jax.training.config import default_config

STAGES = ("motion", "motion_vae", "diffusion")
RUNS = "runs/lvmm"


def get_config(stage: str = "diffusion") -> ConfigDict:
    if stage not in STAGES:
        raise SMCDError(f"preset must be one of {', '.join(STAGES)}, got {stage!r}", argument="preset", value=stage)
    config = default_config("lvmm")
    config.name = f"lvmm_{stage}"
    config.data.frames = config.model.frames
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.0
    config.run.sample_every = 0
    if stage == "motion":
        config.objective = "motion"
        config.trainable = (r"(pair_motion|renderer)/(?!.*(mean|variance)$).*",)
        config.data.inputs = "video"
        config.data.batch_size = 32
        config.optimizer.learning_rate = 2e-4
        config.optimizer.schedule = "cosine"
        config.optimizer.end_lr_ratio = 0.005
        config.run.steps = 1_000_000
    elif stage == "motion_vae":
        config.init.model = f"{RUNS}/motion/model"
        config.init.from_scratch = ("motion_vae/.*",)
        config.objective = "motion_vae"
        config.trainable = ("motion_vae/.*",)
        config.data.inputs = "video"
        config.data.batch_size = 32
        config.run.steps = 200_000
    else:
        config.init.model = f"{RUNS}/motion_vae/model"
        config.init.from_scratch = ("unet/.*", "appearance/.*")
        config.trainable = ("unet/.*", "appearance/.*")
        config.condition_dropout.image = 0.1
        config.condition_dropout.text = 0.1
        config.data.batch_size = 160
        config.optimizer.ema_decay = 0.9999
        config.run.steps = 400_000
    return config
