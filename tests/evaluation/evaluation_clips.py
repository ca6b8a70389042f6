"""Helpers for evaluation tests: records of a few sprites, a tiny model with random weights, and videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipeline.evaluation_lists import EvaluationList, make_evaluation_list
from data_pipeline.records.prepare import prepare
from data_pipeline.records.reader import RecordFolder
from smcd_jax.evaluation.video_store import EvalClip, VideoStore, read_eval_clips
from smcd_jax.media import write_frames
from smcd_jax.model_folder import Origin, write_model_folder
from smcd_jax.models.smcd.config import ImageEncoderConfig, ModelConfig
from smcd_jax.nn.config import AutoencoderConfig, PositionNetConfig, TextEncoderConfig, UNetConfig
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.runtime.progress import Progress

CLIPS, FRAMES, SIDE = 4, 4, 32
WORLD = {"width": SIDE, "height": SIDE, "frames": FRAMES + 1, "max_objects": 2, "min_size": 0.5, "max_size": 0.5}
MINUTE = ModelConfig(
    unet=UNetConfig(
        base_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_scales=(1.0,),
        head_dim=16,
        stem_heads=2,
        context_dim=32,
        object_width=32,
        image_width=32,
        gate="object_image",
        image_latent=True,
        groups=8,
    ),
    position_net=PositionNetConfig(label_width=32, token_width=32, hidden_width=32),
    image_encoder=ImageEncoderConfig(stages=(32,), num_res_blocks=1),
    autoencoder=AutoencoderConfig(base_channels=8, channel_mult=(1, 2), num_res_blocks=1, groups=4),
    text_encoder=TextEncoderConfig(width=32, heads=2, layers=2, embed_width=32),
    frames=FRAMES,
    height=16,
    width=16,
    max_objects=2,
)


def sprite_records(folder: Path, **world) -> RecordFolder:
    """Prepares records of four clips, each with one or two sprites and five frames of 32 x 32 pixels."""
    options = {"test_clips": CLIPS, "classes": ["cat", "dog", "car", "fish"], **WORLD, **world}
    prepare("sprites", None, folder, splits=["test"], options=options)
    return RecordFolder(folder, "test")


def sprite_list(records: RecordFolder) -> EvaluationList:
    return make_evaluation_list(records, frames=FRAMES, seed=1)


def eval_clips(records: RecordFolder) -> list[EvalClip]:
    clips, faults = read_eval_clips(records, sprite_list(records), max_objects=4, need_boxes=True)
    assert not faults
    return clips


def write_videos(folder: Path, clips: list[EvalClip], change: Callable[[np.ndarray, EvalClip], np.ndarray]) -> Path:
    """Writes a folder of frames for each clip: the clip's real frames after ``change``. Returns the parent folder."""
    folder.mkdir(exist_ok=True)
    for clip in clips:
        write_frames(change(clip.real(SIDE, SIDE), clip), folder / clip.clip_id)
    return folder


def store_of(folder: Path, clips: list[EvalClip]) -> VideoStore:
    return VideoStore(clips, folder, progress=Progress())


def noisy(video: np.ndarray, clip: EvalClip, strength: float = 12) -> np.ndarray:
    noise = np.random.default_rng(clip.seed).normal(0, strength, video.shape)
    return np.clip(np.rint(video + noise), 0, 255).astype(np.uint8)


def minute_model(folder: Path) -> Path:
    """Writes a model folder with random weights, because the networks' own initialisers would take a minute."""
    random = np.random.default_rng(0)

    def components():
        for name, part in MINUTE.components().items():
            shapes = flatten(abstract_params(part))
            yield (
                name,
                {
                    path: random.normal(path.endswith("scale"), 0.1, leaf.shape).astype(np.float32)
                    for path, leaf in shapes.items()
                },
            )

    return write_model_folder(folder, MINUTE, components(), origin=Origin("untrained", note="of a test")).path
