"""The three trained stages of the small motion model, on the procedural world of winds.

STAGE is motion (field between two frames, and renderer), motion_vae (autoencoder of fields) or diffusion (motion of a
picture, on cached latents).

Command   smcd train --config configs/tiny/lvmm.py:STAGE --workdir runs/lvmm_tiny/STAGE
Hardware  1 CPU core is enough. `bash launch/train_lvmm_tiny.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from smcd_jax.errors import SMCDError
from smcd_jax.training.config import default_config

STAGES = ("motion", "motion_vae", "diffusion")
RUNS = "runs/lvmm_tiny"


def get_config(stage: str = "diffusion") -> ConfigDict:
    if stage not in STAGES:
        raise SMCDError(f"preset must be one of {', '.join(STAGES)}, got {stage!r}", argument="preset", value=stage)
    config = default_config("lvmm_tiny")
    config.model.prediction_type = "v_prediction"
    config.name = f"lvmm_tiny_{stage}"
    config.data.records = (f"{RUNS}/records",)
    config.data.frames = config.model.frames
    config.optimizer.schedule = "cosine"
    config.optimizer.end_lr_ratio = 0.02
    config.optimizer.weight_decay = 0.0
    config.run.sample_every = 0
    config.run.log_every = 50
    config.run.save_every = 200
    config.run.max_to_keep = 2
    {"motion": _motion, "motion_vae": _motion_vae, "diffusion": _diffusion}[stage](config)
    config.run.validate_every = min(config.run.steps // 4, 400)
    return config


def _motion(config: ConfigDict) -> None:
    config.objective = "motion"
    config.trainable = (r"(pair_motion|renderer)/(?!.*(mean|variance)$).*",)
    config.data.inputs = "video"
    config.data.fields = True
    config.data.batch_size = 16
    config.loss.field_weight = 20.0
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 50
    config.run.steps = 500


def _motion_vae(config: ConfigDict) -> None:
    config.init.model = f"{RUNS}/motion/model"
    config.init.from_scratch = ("motion_vae/.*",)
    config.objective = "motion_vae"
    config.trainable = ("motion_vae/.*",)
    config.data.inputs = "video"
    config.data.batch_size = 4
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 50
    config.optimizer.ema_decay = 0.99
    config.run.steps = 500


def _diffusion(config: ConfigDict) -> None:
    config.init.model = f"{RUNS}/motion_vae/model"
    config.init.from_scratch = ("unet/.*", "appearance/.*", "text_encoder/.*")
    config.trainable = ("unet/.*", "appearance/.*", "text_encoder/.*")
    config.data.inputs = "latents"
    config.data.batch_size = 16
    config.condition_dropout.image = 0.1
    config.condition_dropout.text = 0.1
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.ema_decay = 0.998
    config.run.steps = 20_000
    config.run.minutes = 57.0  # ends the run, here after about 1,978 steps of 16 clips, and sets the learning rate
