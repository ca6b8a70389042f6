"""Measures a motion model: the scales that training needs, and errors on held-out clips of the world of winds.

    python launch/motion_measures.py scales MODEL RECORDS               field_scale and scaling_factor, as JSON
    python launch/motion_measures.py measure MODEL RECORDS OUT.json     figures of docs/lvmm.md

Motion errors are in pixels of the picture; PSNR is computed on 8-bit pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from data_pipeline.builders.winds import world_of
from data_pipeline.records.reader import RecordFolder, read_manifest
from data_pipeline.transforms import decode_frame
from data_pipeline.winds import parse_clip_id, true_fields
from smcd_jax.files import write_json
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.lvmm.networks import Inputs
from smcd_jax.motion import Motion
from smcd_jax.nn.warp import corner_grid, grid_sample, resize_bilinear
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.tracks import BoxTracks

MOVING = 0.5  # motion in pixels below which a point counts as still
BATCH = 8
SHIFT = 0.08  # distance that boxes are moved, as a share of the width: 5 of 64 pixels


def main() -> None:
    """Runs a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scales", "measure"))
    parser.add_argument("model", help="model folder, or name of a shipped model")
    parser.add_argument("records", type=Path, help="records of winds")
    parser.add_argument("output", type=Path, nargs="?", help="JSON file of the figures")
    parser.add_argument("--clips", type=int, default=64, help="number of clips")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps")
    args = parser.parse_args()
    pipe = VideoPipeline.from_pretrained(args.model)
    if args.what == "scales":
        print(json.dumps(scales(pipe, args.records, args.clips)))
        return
    clips = list(read_clips(args.records, "test", args.clips, pipe.config))
    figures = {
        "model": ModelFolder(args.model).digest,
        "clips": len(clips),
        "steps": args.steps,
        **renderer_figures(pipe, clips),
        **sampled_figures(pipe, args.records, clips, args.steps),
        **box_figures(pipe, clips, args.steps),
    }
    print(json.dumps(figures, indent=2))
    if args.output:
        write_json(args.output, figures)


def read_clips(records: Path, split: str, count: int, config: Any) -> Iterator[dict[str, Any]]:
    """Yields clip id, caption, video [f, H, W, 3], true fields [f, y, x, 3] and a first box of clips of a split."""
    folder = RecordFolder(records, split)
    for position in range(min(count, len(folder))):
        clip = folder.window(position, 0, config.frames)
        frames = [
            decode_frame(data, height=config.height, width=config.width, where=clip.clip_id) for data in clip.frames
        ]
        fields = np.asarray(clip.fields, np.float32)
        yield {
            "id": clip.clip_id,
            "caption": clip.caption,
            "picture": frames[0],
            "video": np.stack(frames),
            "fields": fields,
            "box": clip.boxes[0, 0] if clip.mask[0, 0] else None,
        }


def scales(pipe: VideoPipeline, records: Path, count: int) -> dict[str, float]:
    """Returns the standard deviation of predicted displacements, and the reciprocal of that of unscaled latents."""
    model, sums = pipe.model, {"fields": [], "latents": []}
    for features in _features(pipe, read_clips(records, "train", count, pipe.config)):
        fields = np.asarray(features["fields"])[:, 1:]
        sums["fields"].append(fields[..., :2] * model.config.field_scale)
        sums["latents"].append(np.asarray(features["latents"])[:, 1:] / model.config.motion_vae.scaling_factor)
    stds = {name: float(np.concatenate(values).std()) for name, values in sums.items()}
    return {"field_scale": stds["fields"], "scaling_factor": 1 / stds["latents"]}


def _features(pipe: VideoPipeline, clips: Any) -> Iterator[dict[str, Any]]:
    """Yields fields and latents of clips, in batches."""
    model, params = pipe.model, pipe.components.params_of(pipe.model.in_stage("features"))
    by_name = {step.name: step for step in model.feature_steps}

    @jax.jit
    def encode(params: Any, videos: Any) -> dict[str, Any]:
        fields = by_name["fields"].apply(params[by_name["fields"].component], videos, None)
        flat = fields.reshape(-1, *fields.shape[2:])
        latents = by_name["latents"].apply(params["motion_vae"], flat, None)
        return {"fields": fields, "latents": latents.reshape(*fields.shape[:2], *latents.shape[1:])}

    for batch in _batches(clips):
        yield {**encode(params, np.stack([clip["video"] for clip in batch])), "clips": batch}


def _batches(clips: Any) -> Iterator[list[Any]]:
    batch = []
    for clip in clips:
        batch.append(clip)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def renderer_figures(pipe: VideoPipeline, clips: list[dict[str, Any]]) -> dict[str, float]:
    """Returns PSNR and motion errors of predicted fields, of their reconstruction, and of true fields."""
    model, params = pipe.model, pipe.components.params_of(pipe.model.in_stage("features", "decode"))
    size = np.array([pipe.config.width - 1, pipe.config.height - 1]) / 2
    errors: dict[str, list[float]] = {}

    @jax.jit
    def render(params: Any, motion: Motion, pictures: Any) -> Any:
        inputs = Inputs(jnp.zeros((len(pictures), 1, 1, 1)), picture=pictures)
        return 127.5 * (model.render(params, motion, inputs, jnp.arange(motion.displacement.shape[1])) + 1)

    decode = jax.jit(lambda params, latents: model.decode(params, latents, None))
    for features in tqdm(_features(pipe, clips), desc="render", unit="batch", total=-(-len(clips) // BATCH)):
        batch = features["clips"]
        videos = np.stack([clip["video"] for clip in batch]).astype(np.float32)[:, 1:]
        pictures = np.stack([clip["video"][0] for clip in batch])
        true = np.stack([clip["fields"] for clip in batch])[:, 1:]
        predicted = np.asarray(features["fields"])[:, 1:]
        motions = {
            "predicted": Motion(predicted[..., :2] * model.config.field_scale, (predicted[..., 2] + 1) / 2),
            "decoded": jax.tree.map(np.asarray, decode(params, features["latents"][:, 1:])),
            "true": Motion(true[..., :2], true[..., 2]),
        }
        moved = np.linalg.norm(true[..., :2] * size, axis=-1)
        moving = (moved > MOVING) & (true[..., 2] > 0)
        errors.setdefault("motion_none", []).append(float(moved[moving].mean()))
        errors.setdefault("mse_copy", []).append(float(np.square(videos - pictures[:, None]).mean()))
        for name, motion in motions.items():
            rendered = np.asarray(render(params, motion, pictures))
            errors.setdefault(f"mse_{name}", []).append(float(np.square(rendered - videos).mean()))
            apart = np.linalg.norm((motion.displacement - true[..., :2]) * size, axis=-1)
            errors.setdefault(f"motion_{name}", []).append(float(apart[moving].mean()))
        flat = true.reshape(-1, *true.shape[2:])
        full = corner_grid(*pictures.shape[1:3]) + resize_bilinear(flat[..., :2], *pictures.shape[1:3])
        sources = np.repeat(pictures.astype(np.float32), true.shape[1], axis=0)
        warped = np.asarray(grid_sample(sources, full)).reshape(videos.shape)
        errors.setdefault("mse_true_warp", []).append(float(np.square(warped - videos).mean()))
    found = {name: float(np.mean(values)) for name, values in errors.items()}
    psnr = {name.replace("mse", "psnr"): _psnr(value) for name, value in found.items() if name.startswith("mse")}
    return {**{name: round(value, 3) for name, value in found.items() if name.startswith("motion")}, **psnr}


def sampled_figures(pipe: VideoPipeline, records: Path, clips: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Returns seams with and without guidance, diversity over seeds, and the error of slow motion."""
    size = np.array([pipe.config.width - 1, pipe.config.height - 1], np.float32) / 2
    free, other = (_sampled(pipe, clips, seed, num_inference_steps=steps) for seed in (0, 10_000))
    guided = _sampled(pipe, clips, 0, num_inference_steps=steps, loop="guided")
    true = np.stack([clip["fields"] for clip in clips])[:, 1:]
    world = Motion(true[..., :2], true[..., 2])
    seams = {name: _seams(motion) for name, motion in (("free", free), ("guided", guided), ("world", world))}
    there_and_back = _seams(Motion(*_pingpong(free), loop=True))
    figures: dict[str, Any] = {f"seam_{name}": values[0] for name, values in seams.items()}
    figures |= {f"velocity_seam_{name}": values[1] for name, values in seams.items()}
    figures["velocity_seam_pingpong"] = there_and_back[1]
    figures |= {
        f"mean_step_{name}": round(_mean_step(m, size), 3)
        for name, m in (("free", free), ("guided", guided), ("world", world))
    }
    for name, motion in (("sampled", free), ("world", world)):
        figures |= {f"slow_{how}_{name}": error for how, error in _between(motion.from_still(), size).items()}
    moving = np.linalg.norm(true[..., :2] * size, axis=-1).max(axis=1) > MOVING
    figures["diversity_sampled"] = round(_apart(free, other, size, moving), 3)
    figures |= _world_figures(records, clips, pipe.config, size, moving)
    still = ~moving
    figures["motion_where_world_is_still"] = round(float(_length(free, size)[still].mean()), 3)
    figures["motion_where_world_moves"] = round(float(_length(free, size)[moving].mean()), 3)
    figures["true_motion_where_world_moves"] = round(float(_length(world, size)[moving].mean()), 3)
    return figures


def _sampled(
    pipe: VideoPipeline,
    clips: list[dict[str, Any]],
    seed: int,
    *,
    tracks: list[BoxTracks] | None = None,
    **options: Any,
) -> Motion:
    """Returns sampled motion of frames 1 to K, before playback options; clip i has the seed ``seed + i``."""
    found = []
    for start in tqdm(range(0, len(clips), BATCH), desc="sample", unit="batch"):
        rows = range(start, min(start + BATCH, len(clips)))
        pictures, prompts = ([clips[i][name] for i in rows] for name in ("picture", "caption"))
        seeds = [seed + i for i in rows]
        given = options if tracks is None else options | {"tracks": [tracks[i] for i in rows]}
        found.append(pipe(pictures, prompts, seed=seeds, output_type="latent", **given).latents)
    return pipe.decoded(np.concatenate(found))


def _between(motion: Motion, size: np.ndarray) -> dict[str, float]:
    """Returns the error in pixels of every second frame, interpolated from the others, and of the nearest frame."""
    keys = dataclasses.replace(
        motion, displacement=motion.displacement[:, ::2], confidence=np.asarray(motion.confidence)[:, ::2]
    )
    odd = motion.displacement[:, 1::2]
    moved = np.linalg.norm(odd * size, axis=-1) > MOVING
    found = {how: keys.slow(2, how).displacement[:, 1::2] for how in ("linear", "cubic")}
    found["nearest"] = keys.displacement[:, :-1]
    return {
        how: round(float(np.linalg.norm((fields - odd) * size, axis=-1)[moved].mean()), 3)
        for how, fields in found.items()
    }


def box_figures(pipe: VideoPipeline, clips: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """Returns how far the contents of a box follow its track, relative to the track, and the seam with a loop."""
    clips = [clip for clip in clips if clip["box"] is not None]
    frames = pipe.config.frames
    paths = {
        "away": np.arange(frames) / (frames - 1),
        # in a loop, frames 1 and K coincide
        "back": np.append(0, np.sin(np.pi * np.arange(frames - 1) / (frames - 2))),
    }
    signs = [1 if clip["box"][[0, 2]].mean() < 0.5 else -1 for clip in clips]  # towards the middle of the picture
    figures = {}
    for name, path, options in (
        ("free", "away", {"box_guidance_scale": 0.0}),
        ("guided", "away", {}),
        ("with_loop", "back", {"loop": "guided"}),
    ):
        boxes = [
            clip["box"] + SHIFT * sign * paths[path][:, None] * [1, 0, 1, 0]
            for clip, sign in zip(clips, signs, strict=True)
        ]
        tracks = [BoxTracks(one[:, None], np.ones((frames, 1), bool), ("object",)) for one in boxes]
        motion = _sampled(pipe, clips, 0, tracks=tracks, num_inference_steps=steps, **options)
        farthest = int(np.argmax(paths[path]))
        moved = [
            _mean_in_box(motion.displacement[row, farthest - 1, ..., 0], one[farthest]) for row, one in enumerate(boxes)
        ]
        asked = 2 * SHIFT * paths[path][farthest] * np.array(signs)
        figures[f"box_followed_{name}"] = round(float(np.mean(-np.array(moved) / asked)), 3)
        if name == "with_loop":
            figures["box_seam_with_loop"] = _seams(motion)[0]
    return figures


def _mean_in_box(values: np.ndarray, box: np.ndarray) -> float:
    """Returns the mean over the points of the grid [y, x] in a box, xyxy in 0..1."""
    at = [np.linspace(0, 1, side) for side in values.shape]
    rows, columns = (
        (line >= low) & (line <= high) for line, low, high in zip(at, box[[1, 0]], box[[3, 2]], strict=True)
    )
    return float(values[rows][:, columns].mean())


def _world_figures(
    records: Path, clips: list[dict[str, Any]], config: Any, size: np.ndarray, moving: np.ndarray
) -> dict[str, float]:
    """Returns the diversity of the true motion (other winds in the same scene), and the error of slow motion by 4."""
    world = world_of(read_manifest(records).get("plan", {}).get("options", {}))
    rng = np.random.default_rng(0)
    apart, linear, cubic, steps = [], [], [], []
    for row, clip in enumerate(clips):
        split, index = parse_clip_id(clip["id"])
        scene = world.scene(index, split=split)
        wind = dataclasses.replace(
            scene.layers[0].wind,
            direction=int(rng.choice((-1, 1))),
            strength=rng.uniform(0.4, 1.0),
            period=rng.uniform(world.config.min_period, world.config.max_period),
            phase=rng.uniform(0, 2 * np.pi),
        )
        side = clip["fields"].shape[1]
        changed = dataclasses.replace(
            scene, layers=tuple(dataclasses.replace(layer, wind=wind) for layer in scene.layers)
        )
        shape = {"side": side, "width": world.config.width, "height": world.config.height}
        other = true_fields(changed, **shape)[1:]
        difference = np.linalg.norm((other - clip["fields"][1:])[..., :2] * size, axis=-1)
        apart.append(float(difference[:, moving[row]].mean()) if moving[row].any() else 0.0)
        between = true_fields(scene, **shape, frames=[k / 4 for k in range(4 * (config.frames - 1) + 1)])
        keys = Motion(clip["fields"][None, ..., :2], clip["fields"][None, ..., 2])
        visible = (between[..., 2] > 0) & (np.linalg.norm(between[..., :2] * size, axis=-1) > MOVING)
        for found, how in ((linear, "linear"), (cubic, "cubic")):
            wrong = np.linalg.norm((keys.slow(4, how).displacement[0] - between[..., :2]) * size, axis=-1)
            found.append(float(wrong[visible].mean()))
        nearest = between[np.round(np.arange(len(between)) / 4).astype(int) * 4]
        steps.append(float(np.linalg.norm((nearest - between)[..., :2] * size, axis=-1)[visible].mean()))
    return {
        "diversity_world": round(float(np.mean(apart)), 3),
        "slow_error_linear": round(float(np.nanmean(linear)), 3),
        "slow_error_cubic": round(float(np.nanmean(cubic)), 3),
        "slow_error_nearest_frame": round(float(np.nanmean(steps)), 3),
    }


def _pingpong(motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Returns the motion played forward and backward, cut to the length of a loop of K frames."""
    played = motion.from_still().back_and_forth()
    return (
        np.concatenate([played.displacement, played.displacement[:, :1]], axis=1),
        np.concatenate([played.confidence, played.confidence[:, :1]], axis=1),
    )


def _seams(motion: Motion) -> tuple[float, float]:
    """Returns the differences of position and velocity between the last frame and the first, over the mean step."""
    fields = np.asarray(motion.displacement)
    velocity = (fields[:, -1] - fields[:, -2]) - (fields[:, 1] - fields[:, 0])
    position = np.abs(fields[:, -1] - fields[:, 0]).mean()
    return round(float(position / motion.mean_step), 3), round(float(np.abs(velocity).mean() / motion.mean_step), 3)


def _mean_step(motion: Motion, size: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(motion.displacement * size, axis=1), axis=-1).mean())


def _length(motion: Motion, size: np.ndarray) -> np.ndarray:
    return np.linalg.norm(motion.displacement * size, axis=-1).mean(axis=1)


def _apart(first: Motion, second: Motion, size: np.ndarray, moving: np.ndarray) -> float:
    difference = np.linalg.norm((first.displacement - second.displacement) * size, axis=-1).mean(axis=1)
    return float(np.mean([row[where].mean() for row, where in zip(difference, moving, strict=True) if where.any()]))


def _psnr(mse: float) -> float:
    return round(float(10 * np.log10(255**2 / mse)), 2)


if __name__ == "__main__":
    sys.exit(main())
