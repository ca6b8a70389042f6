"""Few-step distillation of stage 2: 4 steps with the guidance of the model built in.

Command   smcd distill --config configs/smcd/distill.py --workdir runs/distill --output models/smcd_4step
          --config.init.model=models/smcd --config.data.records=records/got10k,records/youtube_vis
Starts    from a model folder of stage 2, with features cached by its encoders; the teacher is the same model
Trains    the UNet; each student step replaces 4 guided steps of the teacher (16 in total), with 2 guidance branches
Hardware  a TPU slice v5e:4x4 with --config.mesh.fsdp=16
Memory    11.40 of 15.75 GiB per chip of v5e:4x4 at batch 16, computed by the TPU compiler (`smcd plan`); not measured
"""

from ml_collections import ConfigDict

from smcd_jax.training.config import default_config


def get_config(preset: str = "smcd") -> ConfigDict:
    config = default_config(preset)
    config.name = "distill"
    config.objective = "distill"
    config.trainable = ("unet/.*",)
    config.dropout = False
    config.distill.num_inference_steps = 4
    config.distill.teacher_steps = 4
    config.data.batch_size = 16
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 500
    config.optimizer.weight_decay = 0.0
    config.optimizer.ema_decay = 0.999
    config.run.steps = 10_000
    config.run.sample_every = 0
    config.remat = "blocks" if preset == "smcd" else "none"
    return config
