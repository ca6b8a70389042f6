"""Few-step distillation of the small model: 4 steps with guidance 2 and box guidance 2 built in. SIZE is 64 or 128.

The UNet is trained; each student step replaces 3 guided steps of the teacher, with two guidance branches.

Command   smcd distill --config configs/small/distill.py:SIZE --workdir runs/small_SIZE/distill \
              --output runs/small_SIZE/model_4step
Hardware  64: 2 CPU cores; 128: one GPU. `bash launch/train_small.sh` runs all stages in order.
"""

from ml_collections import ConfigDict

from configs.small.common import folder, small_config


def get_config(size: str = "64") -> ConfigDict:
    config = small_config("distill", size)
    config.objective = "distill"
    config.init.model = f"{folder(size)}/scene/model"
    config.trainable = ("unet/.*",)
    config.distill.num_inference_steps = 4
    config.distill.teacher_steps = 3
    config.distill.guidance.guidance_scale = 2.0
    config.distill.guidance.box_guidance_scale = 2.0
    config.data.batch_size = 32 if size == "128" else 4
    config.optimizer.learning_rate = 3e-4
    config.optimizer.ema_decay = 0.99
    config.optimizer.warmup_steps = 20
    config.run.save_every = 1000 if size == "128" else 25
    config.run.validate_every = 100
    return config
