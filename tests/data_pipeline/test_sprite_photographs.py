"""Tests of the sprite world's photographs, shadows and first frames, and that they leave other worlds unchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipeline.sprites import SpriteWorld, WorldConfig, render_scene
from data_pipeline.sprites.backgrounds import BACKGROUNDS, draw_background
from data_pipeline.sprites.photographs import PHOTOGRAPHS
from data_pipeline.sprites.rng import ClipRng
from launch.train_small import CLASSES, HELD_OUT_SEED, STARTS, WORLD
from smcd_jax.evaluation.metrics.grounding import clip_overlap, grounding_scores
from smcd_jax.evaluation.trackers.sprite_detector import detect_sprites
from tests.errors import refused

SMALL = SpriteWorld(WorldConfig(**WORLD))  # the world that the small model is trained on, at 64 x 64
VARIED = SpriteWorld(WorldConfig(**WORLD, **STARTS))


class TestPhotographs:
    @pytest.mark.parametrize("kind", PHOTOGRAPHS)
    def test_a_photograph_is_the_same_at_every_resolution(self, kind):
        small, large = (
            draw_background(kind, ClipRng(0, split=0, index=3, stream=2), width=side, height=side).astype(np.float64)
            for side in (64, 128)
        )
        halved = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        # Edges are sampled at different positions, and at 64 pixels the finest noise is omitted.
        assert np.abs(small - halved).mean() < 6
        assert np.corrcoef(small.ravel(), halved.ravel())[0, 1] > 0.93

    @pytest.mark.parametrize("kind", PHOTOGRAPHS)
    def test_photographs_have_detail_and_differ_between_clips(self, kind):
        first, second = (
            draw_background(kind, ClipRng(0, split=0, index=index, stream=2), width=64, height=48).astype(np.float64)
            for index in range(2)
        )
        assert first.shape == (48, 64, 3)
        assert np.abs(first - second).mean() > 5
        assert first.std() > 5
        assert first.max() - first.min() > 40

    def test_the_detail_of_a_photograph_is_finer_than_that_of_a_pattern(self):
        def steps(kinds):
            rngs = [ClipRng(0, split=0, index=index, stream=2) for index in range(4)]
            pictures = [draw_background(kind, rng, width=64, height=64).astype(float) for kind in kinds for rng in rngs]
            return np.mean([np.abs(np.diff(picture, n=2, axis=1)).mean() for picture in pictures])

        assert steps(PHOTOGRAPHS) > 1.5 * steps(BACKGROUNDS)

    def test_photographs_stands_for_all_of_them(self):
        assert WorldConfig(backgrounds=("photographs",)).backgrounds == tuple(PHOTOGRAPHS)
        assert set(PHOTOGRAPHS).isdisjoint(WorldConfig().backgrounds)
        assert WorldConfig(backgrounds=["hills", "photographs"]).backgrounds == ("hills", *PHOTOGRAPHS)
        with refused("backgrounds", value="polaroids"):
            WorldConfig(backgrounds=("polaroids",))


class TestWorldOfTheSmallModel:
    def test_it_has_one_to_three_objects_of_24_classes(self):
        scenes = [SMALL.scene(index) for index in range(120)]
        assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
        assert {item.name for scene in scenes for item in scene.objects} == set(CLASSES)
        assert len(CLASSES) == 24

    def test_objects_cover_each_other(self):
        covered = 0
        for index in range(30):
            scene = SMALL.scene(index)
            if scene.crossing:
                alone = dataclasses.replace(scene, objects=scene.objects[:1], shadow=None)
                both = dataclasses.replace(scene, objects=scene.objects[:2], shadow=None)
                changed = [render_scene(one).video[4].astype(int) for one in (alone, both)]
                layer = scene.layer(0, 4)[..., 3] > 200
                covered += bool((np.abs(changed[0] - changed[1]).sum(-1)[layer] > 30).any())
        assert covered >= 3

    def test_clips_are_functions_of_seed_and_index(self):
        for index in (0, 7):
            one, other = SMALL.render(index), SpriteWorld(WorldConfig(**WORLD)).render(index)
            np.testing.assert_array_equal(one.video, other.video)
        held_out = SpriteWorld(WorldConfig(**WORLD, seed=HELD_OUT_SEED))
        assert all((SMALL.scene(i).background != held_out.scene(i, split="test").background).any() for i in range(10))

    def test_the_detector_finds_objects_in_real_clips(self):
        clips = []
        for index in range(4):
            scene = SMALL.scene(index, split="test")
            drawn = render_scene(scene, frames=range(0, 8, 2))
            scene = dataclasses.replace(
                scene, objects=tuple(dataclasses.replace(item, boxes=item.boxes[::2]) for item in scene.objects)
            )
            clips.append(clip_overlap(detect_sprites(drawn.video, scene).boxes, drawn.boxes, drawn.mask))
        assert grounding_scores(clips).ao > 0.9

    def test_the_detector_finds_objects_at_128_pixels(self):
        world = SpriteWorld(WorldConfig(width=128, height=128, frames=2, **WORLD))
        clips = []
        for index in range(2):
            scene = world.scene(index, split="test")
            drawn = render_scene(scene)
            clips.append(clip_overlap(detect_sprites(drawn.video, scene).boxes, drawn.boxes, drawn.mask))
        assert grounding_scores(clips).ao > 0.9


class TestShadows:
    def test_shadows_darken_pixels_beside_the_sprites_and_change_neither_boxes_nor_mask(self):
        scene = next(scene for scene in map(SMALL.scene, range(20)) if scene.shadow is not None)
        with_shadows, without = (render_scene(one) for one in (scene, dataclasses.replace(scene, shadow=None)))
        difference = with_shadows.video.astype(int) - without.video
        assert difference.max() <= 1  # off by one from rounding to 8 bits
        assert difference.min() < -20
        np.testing.assert_array_equal(with_shadows.boxes, without.boxes)
        np.testing.assert_array_equal(with_shadows.mask, without.mask)

    def test_the_share_of_clips_with_shadows_follows_the_option(self):
        assert np.mean([SMALL.scene(index).shadow is not None for index in range(100)]) == pytest.approx(0.8, abs=0.12)
        plain = SpriteWorld(WorldConfig(**WORLD | {"shadow_share": 0}))
        assert all(plain.scene(index).shadow is None for index in range(20))


class TestFirstFrames:
    def test_empty_starts_show_the_background_and_mask_the_objects_out(self):
        world = SpriteWorld(WorldConfig(**WORLD, empty_start_share=1))
        for index in range(5):
            scene, drawn = world.scene(index), world.render(index)
            np.testing.assert_array_equal(drawn.video[0], scene.background)
            assert not drawn.mask[0].any()
            np.testing.assert_array_equal(drawn.video[1:], SMALL.render(index).video[1:])

    def test_other_starts_show_other_classes_in_the_places_of_the_objects(self):
        world = SpriteWorld(WorldConfig(**WORLD, other_start_share=1))
        for index in range(8):
            scene, drawn, usual = world.scene(index), world.render(index), SMALL.render(index)
            shown = scene.shown(0)
            assert {item.name for item in shown}.isdisjoint(item.name for item in scene.objects)
            for item, other in zip(scene.objects, shown, strict=True):
                middles = [(one.boxes[0, :2] + one.boxes[0, 2:]) / 2 for one in (item, other)]
                areas = [(one.boxes[0, 2:] - one.boxes[0, :2]).prod() for one in (item, other)]
                np.testing.assert_allclose(*middles)
                np.testing.assert_allclose(*areas)
            np.testing.assert_array_equal(drawn.video[1:], usual.video[1:])
            both = drawn.mask[0] & usual.mask[0]
            np.testing.assert_allclose(drawn.boxes[0][both], usual.boxes[0][both], atol=2 / 64)  # boxes may be clipped
            assert drawn.labels == usual.labels

    def test_shares_of_first_frames_follow_the_options(self):
        starts = [VARIED.scene(index).start for index in range(200)]
        assert np.mean([start == () for start in starts]) == pytest.approx(0.1, abs=0.06)
        assert np.mean([bool(start) for start in starts]) == pytest.approx(0.15, abs=0.07)
        with refused("other_start_share", value=0.6):
            WorldConfig(empty_start_share=0.5, other_start_share=0.6)

    def test_worlds_without_the_new_options_keep_their_fingerprints(self):
        # The fingerprint is that from before photographs, shadows and first frames were added.
        assert WorldConfig().fingerprint()[:12] == "9391ff6d478f"
        assert WorldConfig(shadow_share=0.5).fingerprint() != WorldConfig().fingerprint()
