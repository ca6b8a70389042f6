"""Draws the animations of README and docs: videos of a small model from held-out pictures and fixed seeds.

    python launch/make_strips.py --model tiny --output docs/strips        # sprites, with their boxes
    python launch/make_strips.py --model lvmm_tiny --output docs/strips   # loops and slow motion of winds
    python launch/make_strips.py --model runs/small_64/model_4step --teacher runs/small_64/model --output docs/strips

The last command draws the richer world of the small model, with its 4-step model and, beside it, its teacher.
Each file is one GIF. All pictures are of split "test" of the model's world.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_pipeline.sprites import SpriteWorld, WorldConfig
from data_pipeline.winds import WindConfig, WindWorld
from launch.train_small import HELD_OUT_SEED, LONG_FRAMES, WORLD
from smcd_jax import VideoPipeline
from smcd_jax.errors import SMCDError
from smcd_jax.media import draw_boxes, write_video
from smcd_jax.models.lvmm.config import LVMMConfig
from smcd_jax.tracks import BoxTracks

SIDE = 128  # width and height of a clip in a strip, in pixels
# Classes of the sprite world that the small model was trained in, as in launch/common.sh.
CLASSES = (
    *("cat", "dog", "panda", "fox", "rocket", "soccer ball", "car", "fish", "balloon", "star", "apple", "butterfly"),
)
LABELS = ("panda", "soccer ball", "red balloon")  # drawn in the same boxes
LIMIT_BYTES = 3_000_000


def main() -> None:
    """Writes all strips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--teacher", help="teacher of a 4-step model of the richer world")
    parser.add_argument("--output", type=Path, default=Path("docs/strips"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    pipe = VideoPipeline.from_pretrained(args.model)
    if isinstance(pipe.config, LVMMConfig):
        _winds(pipe, args.output)
    elif args.teacher:
        _rich_sprites(pipe, VideoPipeline.from_pretrained(args.teacher), args.output)
    else:
        _sprites(pipe, args.output)


def _sprites(pipe: VideoPipeline, output: Path) -> None:
    size = {"width": pipe.config.width, "height": pipe.config.height, "frames": pipe.config.frames}
    world = SpriteWorld(WorldConfig(max_objects=1, classes=CLASSES, **size))
    moving, growing, leaving = (_find(world, phrase) for phrase in ("moves to the right", "grows", "leaves"))

    _write(output / "held_out.gif", [_clip(pipe, *_inputs(world, index)) for index in (moving, growing, leaving)])
    picture, caption, tracks = _inputs(world, moving)
    scales = (1.0, 2.0, 4.0)
    _write(
        output / "box_guidance_1_2_4.gif",
        [_clip(pipe, picture, caption, tracks, box_guidance_scale=scale) for scale in scales],
    )


def _rich_sprites(pipe: VideoPipeline, teacher: VideoPipeline, output: Path) -> None:
    side, frames = pipe.config.width, pipe.config.frames
    options = WORLD | {"width": side, "height": side, "frames": frames, "seed": HELD_OUT_SEED}
    pairs = SpriteWorld(WorldConfig(**options | {"min_objects": 2, "max_objects": 2, "crossing_share": 1.0}))
    alone = SpriteWorld(WorldConfig(**options | {"max_objects": 1}))
    growing, leaving, moving = (_find(alone, phrase) for phrase in ("grows", "leaves", "moves to the right"))
    chosen = [_inputs(pairs, 0), _inputs(alone, growing), _inputs(alone, leaving)]
    _write(output / "small_held_out.gif", [_clip(pipe, *inputs, guided=False) for inputs in chosen])

    picture, _, tracks = _inputs(alone, moving)
    moved = [_moved(tracks, step) for step in ((0.5, 0.0), (0.0, 0.5), (-0.5, -0.5))]
    _write(output / "small_three_tracks.gif", [_clip(pipe, picture, None, one, guided=False) for one in moved])

    empty = alone.scene(moving, split="test").background
    named = [dataclasses.replace(moved[0], labels=(label,), prompt=f"a {label} moves to the right") for label in LABELS]
    _write(output / "small_three_labels.gif", [_clip(pipe, empty, None, one, guided=False) for one in named])

    drawn = pairs.render(1, split="test").video
    steps = [_clip(model, *_inputs(pairs, 1), guided=model is teacher, steps=50) for model in (pipe, teacher)]
    _write(output / "small_4_and_50_steps.gif", [*steps, _enlarged(drawn)])

    longer = SpriteWorld(WorldConfig(**options | {"max_objects": 2, "frames": LONG_FRAMES}))
    _write(
        output / "small_32_frames.gif",
        [_clip(pipe, *_inputs(longer, index), guided=False, num_frames=LONG_FRAMES) for index in (0, 1, 2)],
        fps=12,
    )


def _winds(pipe: VideoPipeline, output: Path) -> None:
    world = WindWorld(WindConfig())
    clips = [world.render(index, split="test") for index in range(4)]
    pictures, prompts = [clip.video[0] for clip in clips], [clip.caption for clip in clips]
    found = pipe(
        pictures,
        prompts,
        loop="guided",
        slow=3,
        interpolation="cubic",
        num_inference_steps=50,
        seed=0,
        output_type="uint8",
    )
    _write(output / "winds_loop.gif", [_enlarged(frames) for frames in found.frames], fps=12)
    motion = pipe.sample_motion(pictures[0], prompts[0], num_inference_steps=50, seed=0)
    played = [motion, motion.scaled(1.5), motion.slow(4, "cubic")]
    shown = [pipe.render(pictures[0], one)[0] for one in played]
    longest = max(map(len, shown))
    _write(
        output / "winds_strength_and_slow.gif",
        [_enlarged(np.resize(frames, (longest, *frames.shape[1:]))) for frames in shown],
    )


def _find(world: SpriteWorld, phrase: str) -> int:
    """Returns the index of the first held-out clip whose caption contains the phrase."""
    return next(index for index in range(10_000) if phrase in world.scene(index, split="test").caption)


def _inputs(world: SpriteWorld, index: int) -> tuple[np.ndarray, str, BoxTracks]:
    drawn = world.render(index, split="test")
    boxes = np.where(drawn.mask[..., None], drawn.boxes, 0)
    return drawn.video[0], drawn.caption, BoxTracks(boxes, drawn.mask, tuple(drawn.labels))


def _moved(tracks: BoxTracks, step: tuple[float, float]) -> BoxTracks:
    """Returns tracks of the first box, moved along a line up to the border of the picture."""
    first = tracks.boxes[0, 0]
    target = np.linspace(0, 1, tracks.num_frames)[:, None] * np.tile(step, 2) + first
    shift = np.minimum(0, 1 - target[:, 2:]) + np.maximum(0, -target[:, :2])
    boxes = np.clip(target + np.tile(shift, 2), 0, 1)
    return BoxTracks(boxes[:, None], np.ones((len(boxes), 1), bool), tracks.labels[:1], prompt=f"a {tracks.labels[0]}")


def _clip(
    pipe: VideoPipeline,
    picture: np.ndarray,
    prompt: str | None,
    tracks: BoxTracks,
    *,
    box_guidance_scale: float = 2.0,
    guided: bool = True,
    steps: int = 25,
    num_frames: int | None = None,
) -> np.ndarray:
    """Returns an enlarged video with its boxes; a distilled model is not ``guided`` and has its own number of steps."""
    options = {"num_inference_steps": steps, "guidance_scale": 2.0, "box_guidance_scale": box_guidance_scale}
    output = pipe(
        picture,
        prompt,
        tracks=tracks,
        num_frames=num_frames,
        seed=0,
        output_type="uint8",
        **(options if guided else {}),
    )
    return draw_boxes(_enlarged(output.frames[0]), tracks.boxes, tracks.mask, tracks.labels)


def _enlarged(frames: np.ndarray) -> np.ndarray:
    factor = max(1, SIDE // frames.shape[1])
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _write(path: Path, clips: list[np.ndarray], *, fps: int = 6) -> None:
    gap = np.full((*clips[0].shape[:2], 4, 3), 255, np.uint8)
    row = [part for clip in clips for part in (clip, gap)][:-1]
    write_video(np.concatenate(row, axis=2), path, fps=fps)
    if path.stat().st_size > LIMIT_BYTES:
        raise SMCDError(
            f"{path}: must have at most {LIMIT_BYTES} bytes, got {path.stat().st_size}; reduce SIDE",
            path=path,
            value=path.stat().st_size,
        )
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
