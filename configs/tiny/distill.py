"""Few-step distillation of the small model: 4 steps with guidance 2 and box guidance 2 built in.

The UNet is trained; each student step replaces 3 guided steps of the teacher, with two guidance branches.

Command   smcd distill --config configs/tiny/distill.py --workdir runs/tiny/distill --output runs/tiny/model_4step
Starts    from the shipped model, with features cached by it: smcd prepare --features tiny --output runs/tiny/records
Hardware  2 CPU cores are enough
"""

from ml_collections import ConfigDict

from configs.tiny.common import tiny_config


def get_config() -> ConfigDict:
    config = tiny_config("tiny_distill")
    config.init.model = "tiny"
    config.objective = "distill"
    config.trainable = ("unet/.*",)
    config.distill.num_inference_steps = 4
    config.distill.teacher_steps = 3
    config.distill.guidance.guidance_scale = 2.0
    config.distill.guidance.box_guidance_scale = 2.0
    config.data.inputs = "features"
    config.data.batch_size = 8
    config.optimizer.learning_rate = 3e-4
    config.optimizer.ema_decay = 0.99
    config.optimizer.warmup_steps = 20
    config.run.steps = 400
    config.run.log_every = 10
    config.run.save_every = 25
    config.run.validate_every = 100
    config.run.sample_every = 0
    return config
