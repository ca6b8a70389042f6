"""The exact detector finds sprites where the scene has them, even in blurred frames, and nowhere else."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_pipeline.sprites import Scene, SpriteWorld, WorldConfig, render_scene
from smcd_jax.evaluation.metrics.baselines import slid_crop, still_first_frame
from smcd_jax.evaluation.metrics.grounding import box_iou, clip_overlap, grounding_scores
from smcd_jax.evaluation.trackers.sprite_detector import THRESHOLD, detect_sprites
from tests.errors import refused

CLIPS = range(5)
ALONE = SpriteWorld(WorldConfig(max_objects=1))
PAIRS = SpriteWorld(WorldConfig(min_objects=2, max_objects=2))


def _scenes(world: SpriteWorld) -> list[Scene]:
    return [world.scene(index, split="test") for index in CLIPS]


def _overlap(scenes, change) -> float:
    """Returns the average overlap (AO) over scenes, with the detector run on `change(rendering)`."""
    clips = []
    for scene in scenes:
        drawn = render_scene(scene)
        clips.append(clip_overlap(detect_sprites(change(drawn), scene).boxes, drawn.boxes, drawn.mask))
    return grounding_scores(clips).ao


def _decoded(video: np.ndarray, factor: int, *, fade: float = 0.8, shift: float = 8, noise: float = 6) -> np.ndarray:
    """Simulates a small autoencoder: shrinks and enlarges the video, fades and shifts colours, and adds noise."""
    rng = np.random.default_rng(0)
    frames = []
    for frame in video:
        image = Image.fromarray(frame)
        image = image.resize((image.width // factor, image.height // factor), Image.Resampling.BOX)
        pixels = np.asarray(image.resize(frame.shape[1::-1], Image.Resampling.BICUBIC), np.float32)
        pixels = (pixels - pixels.mean()) * fade + pixels.mean() + shift + rng.normal(0, noise, pixels.shape)
        frames.append(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return np.stack(frames)


def _empty(scene: Scene, frames: int = 2) -> np.ndarray:
    return np.repeat(scene.background[None], frames, axis=0)


class TestWhereSpritesAre:
    # AO measured on 50 clips with one sprite and with up to two: 0.985 and 0.980, or 0.96 and 0.94 if shrunk by 4 and
    # faded. A still video has 0.25.

    def test_real_clips_reach_the_highest_score(self):
        assert _overlap(_scenes(ALONE), lambda drawn: drawn.video) > 0.95

    def test_two_sprites_are_not_mistaken_for_each_other(self):
        assert _overlap(_scenes(PAIRS), lambda drawn: drawn.video) > 0.93

    def test_blur_faded_and_shifted_colours_and_noise_have_little_effect(self):
        assert _overlap(_scenes(ALONE), lambda drawn: _decoded(drawn.video, 4)) > 0.9
        assert _overlap(_scenes(PAIRS), lambda drawn: _decoded(drawn.video, 4)) > 0.85

    def test_sprites_are_found_even_if_shrunk_by_eight(self):
        assert _overlap(_scenes(ALONE), lambda drawn: _decoded(drawn.video, 8, fade=1, shift=0)) > 0.7

    def test_a_still_video_has_the_score_of_its_boxes(self):
        scenes = _scenes(ALONE)
        drawings = [render_scene(scene) for scene in scenes]
        still = [clip_overlap(np.repeat(one.boxes[:1], 8, axis=0), one.boxes, one.mask) for one in drawings]
        found = _overlap(scenes, lambda drawn: still_first_frame(drawn.video[0], 8))
        assert found == pytest.approx(grounding_scores(still).ao, abs=0.02)

    def test_a_crop_slid_along_the_boxes_is_followed(self):
        def slide(drawn):
            return slid_crop(drawn.video[0], drawn.boxes, drawn.mask)

        assert _overlap(_scenes(ALONE), slide) > 0.85

    def test_sprites_are_found_in_larger_and_oblong_pictures(self):
        world = SpriteWorld(WorldConfig(width=160, height=128, frames=2, max_objects=1))
        assert _overlap(_scenes(world)[:3], lambda drawn: drawn.video) > 0.95

    def test_the_detector_does_not_use_the_positions_of_the_scene(self):
        scene = ALONE.scene(3, split="test")
        (item,) = scene.objects
        video = render_scene(scene).video[:2]
        elsewhere = item.boxes + np.array([5, -3, 5, -3])  # boxes of the same size at other positions
        moved = dataclasses.replace(scene, objects=(dataclasses.replace(item, boxes=elsewhere),))
        np.testing.assert_array_equal(detect_sprites(video, moved).boxes, detect_sprites(video, scene).boxes)

    def test_each_frame_is_independent(self):
        scene = PAIRS.scene(1, split="test")
        video = render_scene(scene).video[:3]
        forth, back = detect_sprites(video, scene), detect_sprites(video[::-1], scene)
        np.testing.assert_array_equal(forth.boxes, back.boxes[::-1])
        np.testing.assert_array_equal(forth.scores, back.scores[::-1])
        frames = [0, 0, 1, 0]  # a frame equal to the one before it is not searched again
        repeated = detect_sprites(video[frames], scene)
        np.testing.assert_array_equal(repeated.boxes, forth.boxes[frames])
        np.testing.assert_array_equal(repeated.scores, forth.scores[frames])

    def test_boxes_are_exact_to_a_fraction_of_a_pixel(self):
        scene = ALONE.scene(0, split="test")
        (item,) = scene.objects
        side = item.boxes[0, 2:] - item.boxes[0, :2]
        places = np.array([[20, 20], [20.5, 19.5], [20.25, 20.75]])
        scene = dataclasses.replace(
            scene, objects=(dataclasses.replace(item, boxes=np.concatenate([places, places + side], axis=1)),)
        )
        drawn = render_scene(scene)
        # 0.4 pixels, for shifts along both axes
        assert np.abs(detect_sprites(drawn.video, scene).boxes - drawn.boxes).max() < 0.4 / 64

    def test_sprites_are_found_in_a_much_brighter_video(self):
        scene = ALONE.scene(1, split="test")
        drawn = render_scene(scene)
        brighter = np.clip(drawn.video.astype(int) + 60, 0, 255).astype(np.uint8)
        assert drawn.video.max() > 195  # some values are clipped at 255, as in a decoder
        assert np.nanmin(clip_overlap(detect_sprites(brighter, scene).boxes, drawn.boxes, drawn.mask).ious) > 0.8

    def test_the_box_of_a_sprite_half_outside_is_that_of_its_visible_part(self):
        scene = ALONE.scene(0, split="test")
        boxes = np.array([[20.0, 20, 40, 40], [-12, 20, 8, 40], [52, 20, 72, 40]])  # a star's tip remains visible
        item = dataclasses.replace(scene.objects[0], name="star", color="red", boxes=boxes)
        scene = dataclasses.replace(scene, objects=(item,))
        drawn = render_scene(scene)
        cut = np.clip(boxes / 64, 0, 1).astype(np.float32)[:, None]
        assert box_iou(cut, drawn.boxes).min() < 0.85
        assert box_iou(detect_sprites(drawn.video, scene).boxes, drawn.boxes).min() > 0.9


class TestAbsentSprites:
    def test_nothing_is_found_on_a_bare_background(self):
        for scene in _scenes(ALONE):
            found = detect_sprites(_empty(scene), scene)
            assert np.isnan(found.boxes).all()
            assert found.scores.max() < THRESHOLD

    def test_a_sprite_that_leaves_is_not_found_and_its_overlap_is_0(self):
        scene = ALONE.scene(3, split="test")
        drawn = render_scene(scene)
        video = np.concatenate([drawn.video[:1], _empty(scene, 7)])
        clip = clip_overlap(detect_sprites(video, scene).boxes, drawn.boxes, drawn.mask)
        assert np.nanmax(clip.ious) == 0

    def test_a_missing_sprite_of_two_is_not_found(self):
        for index in (4, 6, 7):  # the residual beside the present sprite could be mistaken for the other's edge
            scene = PAIRS.scene(index, split="test")
            drawn = render_scene(dataclasses.replace(scene, objects=scene.objects[1:]), frames=[0])
            found = detect_sprites(drawn.video, scene)
            assert box_iou(found.boxes[0, 1], drawn.boxes[0, 0]) > 0.9
            assert np.isnan(found.boxes[0, 0]).all()

    @pytest.mark.parametrize(("color", "other"), [("red", "blue"), ("blue", "yellow"), ("yellow", "blue")])
    def test_a_sprite_of_the_opposite_colour_is_not_found(self, color, other):
        scores = []
        for name in ("car", "fish", "balloon", "tulip", "star"):
            scene = ALONE.scene(0, split="test")
            item = dataclasses.replace(scene.objects[0], name=name, color=color, boxes=np.array([[20.0, 20, 40, 40]]))
            drawn = dataclasses.replace(scene, objects=(item,))
            searched = dataclasses.replace(scene, objects=(dataclasses.replace(item, color=other),))
            scores.append(detect_sprites(render_scene(drawn).video, searched).scores[0, 0])
        assert np.median(scores) < THRESHOLD - 0.1

    def test_a_threshold_can_be_set(self):
        scene = ALONE.scene(0, split="test")
        video = render_scene(scene, frames=[0]).video
        assert np.isfinite(detect_sprites(video, scene).boxes).all()
        assert np.isnan(detect_sprites(video, scene, threshold=1.01).boxes).all()


class TestContract:
    def test_frames_of_another_size_are_refused(self):
        scene = ALONE.scene(0)
        with refused("frames", value=(2, 64, 64, 3)):
            detect_sprites(np.zeros((2, 64, 64, 3), np.float32), scene)
        with refused("frames", value=(2, 32, 64, 3)):
            detect_sprites(np.zeros((2, 32, 64, 3), np.uint8), scene)

    def test_importing_the_detector_does_not_import_data_pipeline(self):
        script = (
            "import sys, smcd_jax.evaluation.trackers.sprite_detector, smcd_jax.evaluation.metrics.grounding, "
            "smcd_jax.evaluation.trackers.object_trackers, smcd_jax.evaluation.metrics.motion, "
            "smcd_jax.evaluation.metrics.baselines;"
            "print([name for name in ('data_pipeline', 'cv2', 'torch', 'tensorflow') if name in sys.modules])"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "[]"
