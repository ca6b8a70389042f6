"""Measures the small model on held-out sprites: the figures in the README and in its model card.

    python launch/tiny_figures.py --model tiny --clips 200 --output outputs/tiny_figures.json

Every clip of the sprite world's split "test" from number 0 on is animated from its first frame, caption and boxes, with
the clip's number as seed, and the exact detector looks for the sprite. Beside it: the real clip (ceiling), the still
first frame and the first crop slid along the boxes (floors), the same without boxes, with another track, and with
another label.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline.sprites import SpriteWorld, WorldConfig
from smcd_jax import SMCDPipeline
from smcd_jax.evaluation.metrics.baselines import slid_crop, still_first_frame
from smcd_jax.evaluation.metrics.grounding import clip_overlap, displacement_correlation, grounding_scores
from smcd_jax.evaluation.trackers.sprite_detector import detect_sprites
from smcd_jax.tracks import BoxTracks

CLASSES = (
    *("cat", "dog", "panda", "fox", "rocket", "soccer ball", "car", "fish", "balloon", "star", "apple", "butterfly"),
)
BATCH = 8


class Clip:
    """One held-out clip with its scene."""

    def __init__(self, world: SpriteWorld, index: int, *, boxes_given: bool):
        self.boxes_given = boxes_given
        self.index, self.scene = index, world.scene(index, split="test")
        drawn = world.render(index, split="test")
        self.video, self.boxes, self.mask, self.caption = drawn.video, drawn.boxes, drawn.mask, drawn.caption
        self.labels = tuple(drawn.labels)

    def tracks(self, boxes: np.ndarray | None = None, labels: tuple[str, ...] | None = None) -> BoxTracks:
        """What the model is given: as asked for, or with other boxes or labels; or no object in any frame."""
        boxes = self.boxes if boxes is None else boxes
        mask = self.mask & self.boxes_given
        return BoxTracks(np.where(mask[..., None], boxes, 0), mask, labels or self.labels)

    def mirrored(self) -> np.ndarray:
        """Boxes that begin where the clip's do and move the opposite way, within the picture."""
        size = self.boxes[..., 2:] - self.boxes[..., :2]
        centre = (self.boxes[..., 2:] + self.boxes[..., :2]) / 2
        other = np.clip(2 * centre[:1] - centre, 0.15, 0.85)
        return np.clip(np.concatenate([other - size / 2, other + size / 2], axis=-1), 0, 1).astype(np.float32)


def main() -> None:
    """Sample, detect, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--extra_clips", type=int, default=50, help="with another track, and with another label")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--box_guidance_scale", type=float, default=2.0)
    parser.add_argument("--max_objects", type=int, default=1)
    parser.add_argument("--no_boxes", action="store_true", help="sample without boxes; measure against them")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    pipe = SMCDPipeline.from_pretrained(args.model)
    size = {"width": pipe.config.width, "height": pipe.config.height, "frames": pipe.config.frames}
    world = SpriteWorld(WorldConfig(max_objects=args.max_objects, classes=CLASSES, **size))
    clips = [Clip(world, index, boxes_given=not args.no_boxes) for index in range(args.clips)]
    start = time.perf_counter()
    how = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale}
    boxed = how | {"box_guidance_scale": args.box_guidance_scale}
    figures: dict[str, Any] = {
        "real clip": _scores(clips, [clip.video for clip in clips]),
        "still first frame": _scores(clips, [still_first_frame(clip.video[0], len(clip.video)) for clip in clips]),
        "first crop slid along the boxes": _scores(
            clips, [slid_crop(clip.video[0], clip.boxes, clip.mask) for clip in clips]
        ),
    }
    plain = _sample(pipe, clips, [clip.tracks() for clip in clips], how)
    guided = _sample(pipe, clips, [clip.tracks() for clip in clips], boxed)
    figures["model, box guidance off"] = _scores(clips, plain)
    figures["model, box guidance on"] = _scores(clips, guided)
    figures["first frame PSNR, dB"] = _psnr([clip.video[0] for clip in clips], [video[0] for video in guided])
    figures["autoencoder PSNR, dB"] = _psnr([clip.video[0] for clip in clips], _decoded(pipe, clips))

    clips, guided = clips[: args.extra_clips], guided[: args.extra_clips]
    other = [clip.mirrored() for clip in clips]
    turned = _sample(pipe, clips, [clip.tracks(boxes) for clip, boxes in zip(clips, other, strict=True)], boxed)
    found = [_detect(clip, video) for clip, video in zip(clips * 2, [*guided, *turned], strict=True)]
    asked, masks = [clip.boxes for clip in clips] + other, [clip.mask for clip in clips] * 2
    figures["asked and found displacement, rank correlation"] = displacement_correlation(asked, found, masks)._asdict()
    swapped = _sample(pipe, clips, [clip.tracks(labels=_swapped(clip)) for clip in clips], boxed)
    figures["label swapped, mean absolute change of pixels, 0..255"] = float(
        np.mean([np.abs(a.astype(np.float32) - b).mean() for a, b in zip(guided, swapped, strict=True)])
    )
    figures["settings"] = {
        **boxed,
        "boxes_given": not args.no_boxes,
        "clips": args.clips,
        "extra_clips": len(clips),
        "model": pipe.folder.digest[:16],
        **size,
    }
    figures["seconds"] = round(time.perf_counter() - start)
    print(json.dumps(figures, indent=2, default=float))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(figures, indent=2, default=float) + "\n")


def _sample(pipe: SMCDPipeline, clips: Sequence[Clip], tracks: Sequence[BoxTracks], how: dict[str, Any]) -> list:
    videos = []
    for first in tqdm(range(0, len(clips), BATCH), desc="sampling"):
        some = clips[first : first + BATCH]
        made = pipe(
            [clip.video[0] for clip in some],
            [clip.caption for clip in some],
            list(tracks[first : first + BATCH]),
            seed=[clip.index for clip in some],
            output_type="uint8",
            **how,
        )
        videos += list(made.frames)
    return videos


def _detect(clip: Clip, video: np.ndarray) -> np.ndarray:
    return detect_sprites(video, clip.scene).boxes


def _scores(clips: Sequence[Clip], videos: Sequence[np.ndarray]) -> dict[str, float]:
    pairs = zip(clips, videos, strict=True)
    scores = grounding_scores([clip_overlap(_detect(clip, video), clip.boxes, clip.mask) for clip, video in pairs])
    return {"AO": scores.ao, "SR50": scores.sr50, "SR75": scores.sr75}


def _psnr(real: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> float:
    errors = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(real, made, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-9))))


def _decoded(pipe: SMCDPipeline, clips: Sequence[Clip]) -> list[np.ndarray]:
    """First frames through the autoencoder and back."""
    import jax.numpy as jnp

    module, params = pipe.networks["autoencoder"], pipe.folder.params("autoencoder")
    frames = np.stack([clip.video[0] for clip in clips])
    posterior = module.apply({"params": params}, jnp.asarray(frames / 127.5 - 1, jnp.float32), method="posterior")
    decoded = np.asarray(module.apply({"params": params}, posterior.mean, method="decode_unscaled"))
    return list(np.clip(np.rint((decoded + 1) * 127.5), 0, 255).astype(np.uint8))


def _swapped(clip: Clip) -> tuple[str, ...]:
    """Each label becomes the next class that the clip does not show."""
    names = [label.split()[-1] for label in clip.labels]
    free = [name for name in CLASSES if name not in names]
    return tuple(free[(clip.index + place) % len(free)] for place in range(len(names)))


if __name__ == "__main__":
    main()
