r"""Fine-tuning of DynamiCrafter as published: the whole UNet and the resampler, with joint dropout of text and image.

PRESET is dynamicrafter_512, _1024, _512_interp or _256, followed by "+still_time" to freeze the temporal transformers,
which the authors advise if fine-tuning reduces motion.

Command   smcd train --config configs/dynamicrafter/finetune.py:dynamicrafter_512 --workdir runs/finetune \
              --config.init.model=models/dynamicrafter_512 --config.data.records=records/mine
Starts    from a converted model folder (`smcd convert --dynamicrafter`)
Trains    1,488 of 2,609 million parameters (1,215 with "+still_time"); published: 100,000 steps of 2 clips on each of 8
          GPUs, accumulated twice
Memory    24 bytes for each trained parameter with AdamW and gradients: 36 GB, so several chips (--config.mesh.fsdp) or
          configs/dynamicrafter/low_rank.py
"""

from ml_collections import ConfigDict

from smcd_jax.training.config import default_config

STILL_TIME = "+still_time"
TEMPORAL = r"(encoder_[1-9][0-9]*|decoder_[0-9]+|middle/attended)/temporal/"  # all but the first one, `init_attn`


def get_config(preset: str = "dynamicrafter_512") -> ConfigDict:
    config = default_config(preset.removesuffix(STILL_TIME))
    config.name = "finetune"
    config.trainable = ("unet/.*", "resampler/.*")
    if preset.endswith(STILL_TIME):
        config.trainable = (rf"unet/(?!{TEMPORAL}).*", "resampler/.*")
    config.condition_dropout.text = 0.1  # twice the published uncond_prob, see DynamiCrafterNetworks.keep_at
    config.condition_dropout.image_tokens = 0.1
    config.model.condition_frame = "batch"  # one frame for all clips, as published; "first" for chains of clips
    config.data.inputs = "video"
    config.data.frames = config.model.frames
    config.data.batch_size = 16 if "1024" in preset else 32
    config.optimizer.learning_rate = 1e-5
    config.optimizer.clip_norm = 0.5
    config.optimizer.grad_accum_steps = 2
    config.run.steps = 100_000
    config.run.sample_every = 0
    config.remat = "blocks"
    return config
