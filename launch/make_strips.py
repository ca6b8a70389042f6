"""Draws the animations of README and docs: videos of a small model from held-out pictures and fixed seeds.

    python launch/make_strips.py --model tiny --output docs/strips        # sprites, with their boxes
    python launch/make_strips.py --model lvmm_tiny --output docs/strips   # loops and slow motion of winds

Each file is one GIF. All pictures are of split "test" of the model's world.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from data_pipeline.sprites import SpriteWorld, WorldConfig
from data_pipeline.winds import WindConfig, WindWorld
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
LIMIT_BYTES = 3_000_000


def main() -> None:
    """Writes all strips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--output", type=Path, default=Path("docs/strips"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    pipe = VideoPipeline.from_pretrained(args.model)
    if isinstance(pipe.config, LVMMConfig):
        _winds(pipe, args.output)
    else:
        _sprites(pipe, args.output)


def _sprites(pipe: VideoPipeline, output: Path) -> None:
    size = {"width": pipe.config.width, "height": pipe.config.height, "frames": pipe.config.frames}
    world = SpriteWorld(WorldConfig(max_objects=1, classes=CLASSES, **size))
    moving, growing, leaving = (_find(world, phrase) for phrase in ("moves to the right", "grows", "leaves"))

    _write(output / "held_out.gif", [_clip(pipe, *_inputs(world, index)) for index in (moving, growing, leaving)])
    picture, caption, tracks = _inputs(world, moving)
    moved = [_moved(tracks, step) for step in ((0.5, 0.0), (0.0, 0.5), (-0.5, -0.5))]
    _write(output / "one_picture_three_tracks.gif", [_clip(pipe, picture, None, one) for one in moved])
    scales = (1.0, 2.0, 4.0)
    _write(
        output / "box_guidance_1_2_4.gif",
        [_clip(pipe, picture, caption, tracks, box_guidance_scale=scale) for scale in scales],
    )
    both = SpriteWorld(WorldConfig(min_objects=2, max_objects=2, crossing_share=1.0, classes=CLASSES, **size))
    _write(output / "two_crossing.gif", [_clip(pipe, *_inputs(both, index)) for index in (0, 1, 2)])


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
    pipe: VideoPipeline, picture: np.ndarray, prompt: str | None, tracks: BoxTracks, *, box_guidance_scale: float = 2.0
) -> np.ndarray:
    output = pipe(
        picture,
        prompt,
        tracks=tracks,
        num_inference_steps=25,
        guidance_scale=2.0,
        box_guidance_scale=box_guidance_scale,
        seed=0,
        output_type="uint8",
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
