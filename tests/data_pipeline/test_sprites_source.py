"""Tests of the sprite source and its parameters, and of the appearance of sprites, colors and backgrounds."""

from __future__ import annotations

import dataclasses
import io
import math
import pickle

import numpy as np
import pytest
from PIL import Image

from data_pipeline.builders import make_source
from data_pipeline.records.schema import deserialize, serialize
from data_pipeline.sprites import SpriteWorld, WorldConfig, clip_id, measure_rate, parse_clip_id
from data_pipeline.sprites.atlas import ATLAS_FOLDER, sprite, sprite_classes
from data_pipeline.sprites.backgrounds import BACKGROUNDS, draw_background
from data_pipeline.sprites.colors import COLORS, hsv_to_rgb, rgb_to_hsv
from data_pipeline.sprites.make_atlas import TABLE
from data_pipeline.sprites.rng import ClipRng
from tests.errors import refused

WORLD = SpriteWorld()


class TestLooks:
    @pytest.mark.parametrize("color", COLORS)
    def test_coloured_sprites_have_the_hue_of_their_word(self, color):
        for name in ("car", "bird", "umbrella", "dinosaur"):
            patch = sprite(name, color, mirrored=False).draw((0, 0, 60, 60 / sprite_classes()[name].aspect), 64, 64)
            opaque = patch.pixels[patch.pixels[..., 3] == 255][:, :3] / 255
            hue, saturation, _ = rgb_to_hsv(opaque)
            near = np.abs((hue - COLORS[color][0] + 180) % 360 - 180) < 18
            assert near[saturation > 0.25].mean() > 0.5

    def test_a_mirrored_sprite_is_the_mirror_image(self):
        one, other = (sprite("cat", None, mirrored=mirrored).draw((2, 2, 30, 30), 32, 32) for mirrored in (False, True))
        # Filter weights are rounded asymmetrically, so that values may differ by up to two levels.
        assert np.abs(one.pixels[:, ::-1].astype(int) - other.pixels).max() <= 2

    def test_a_sprite_cut_by_the_border_is_the_same_sprite(self):
        sprite_object = sprite("train", None, mirrored=False)
        whole = sprite_object.draw((20.3, 10.7, 50.3, 40.7), 100, 100)
        cut = sprite_object.draw((-9.7, 10.7, 20.3, 40.7), 100, 100)
        # Pillow applies the same filter to another range of pixels, so that values may differ by one level.
        assert np.abs(whole.pixels[:, -cut.pixels.shape[1] :].astype(int) - cut.pixels).max() <= 1
        assert sprite_object.draw((-40, 0, -10, 30), 100, 100) is None

    @pytest.mark.parametrize("side", [12, 25, 50])
    def test_drawing_is_as_sharp_as_shrinking_the_picture_of_the_atlas(self, side):
        with Image.open(ATLAS_FOLDER / "atlas.png") as image:
            glyph = image.crop(sprite_classes()["soccer ball"].box)
        wanted = np.asarray(glyph.convert("RGBa").resize((side, side), Image.Resampling.HAMMING).convert("RGBa"))
        drawn = sprite("soccer ball", None, mirrored=False).draw((0, 0, side, side), side, side).pixels
        # The error is at most 2.9 if the stored picture is at least twice as large, but 9 to 24 if it is half as large.
        assert np.abs(drawn.astype(int) - wanted).mean() < 4

    def test_opacity_of_a_drawn_sprite_is_in_proportion_to_its_area(self):
        for name in ("tree", "soccer ball", "pizza"):
            sprite_object = sprite(name, None, mirrored=False)
            for side in (9.3, 20.0, 47.6):
                box = (3.4, 5.2, 3.4 + side * sprite_object.aspect, 5.2 + side)
                drawn = sprite_object.draw(box, 128, 128).pixels[..., 3].sum() / 255
                assert drawn == pytest.approx(
                    sprite_object.opacity * side * side * sprite_object.aspect, rel=0.03
                )  # the tolerance covers faint edges

    @pytest.mark.parametrize("kind", BACKGROUNDS)
    def test_backgrounds_are_coarse_coloured_and_not_plain(self, kind):
        for index in range(10):
            rng = ClipRng(0, split=0, index=index, stream=2)
            picture = draw_background(kind, rng, width=64, height=48).astype(float)
            assert picture.shape == (48, 64, 3)
            assert np.ptp(picture, axis=(0, 1)).max() > 8
            _, saturation, _ = rgb_to_hsv(picture / 255)
            assert saturation.mean() < 0.65  # sprites are more colorful
            # Coarse: downsampling by 8 keeps most of the picture, with a residual below 1/8 of the full range.
            coarse = np.kron(picture.reshape(6, 8, 8, 8, 3).mean(axis=(1, 3)), np.ones((8, 8, 1)))
            assert np.abs(picture - coarse).mean() < 32

    def test_colour_spaces_are_inverse(self):
        colors = np.random.default_rng(0).uniform(size=(500, 3))
        np.testing.assert_allclose(hsv_to_rgb(*rgb_to_hsv(colors)), colors, atol=1e-12)
        assert rgb_to_hsv(np.full((1, 3), 0.5))[1] == 0

    def test_the_atlas_comes_with_its_licence_and_is_small(self):
        assert "SIL OPEN FONT LICENSE" in (ATLAS_FOLDER / "LICENSE").read_text()
        assert "Noto" in (ATLAS_FOLDER / "NOTICE").read_text()
        assert sum(path.stat().st_size for path in ATLAS_FOLDER.iterdir()) < 3 * 2**20
        assert len(sprite_classes()) == 48

    def test_the_atlas_is_that_of_the_table(self):
        table = [(name, facing, hue) for name, _, facing, hue in TABLE]
        assert table == [(entry.name, entry.facing, entry.hue) for entry in sprite_classes().values()]

    def test_every_cell_of_the_atlas_holds_one_tightly_cropped_sprite(self):
        with Image.open(ATLAS_FOLDER / "atlas.png") as image:
            opacity = np.array(image)[..., 3]
        boxes = [entry.box for entry in sprite_classes().values()]
        for x1, y1, x2, y2 in boxes:
            cell = opacity[y1:y2, x1:x2]
            assert all(side.any() for side in (cell[0], cell[-1], cell[:, 0], cell[:, -1]))
            opacity[y1:y2, x1:x2] = 0
        assert not opacity.any()

    def test_sprites_that_do_not_exist_are_refused(self):
        with refused("name", value="dragon"):
            sprite("dragon", None, mirrored=False)
        with refused("color", value="red"):
            sprite("cat", "red", mirrored=False)
        with refused("color", value=None):
            sprite("car", None, mirrored=False)


class TestParameters:
    @pytest.mark.parametrize(
        ("wrong", "argument", "value"),
        [
            ({"width": 8}, "width", 8),
            ({"width": 200}, "width", 200),
            ({"frames": 0}, "frames", 0),
            ({"frames": 8.0}, "frames", 8.0),
            ({"min_objects": 3, "max_objects": 2}, "max_objects", 2),
            ({"seed": -1}, "seed", -1),
            ({"min_size": 0.4, "max_size": 0.3}, "max_size", 0.3),
            ({"min_visible": math.nan}, "min_visible", math.nan),  # NaN is compared by identity
            ({"classes": ("cat", "dragon")}, "classes", "dragon"),
            ({"classes": ("cat", "cat", "dog", "bee")}, "classes", ("cat", "cat", "dog", "bee")),
            ({"classes": ("cat", "dog")}, "max_objects", 4),
            ({"colors": ()}, "colors", ()),
            ({"backgrounds": ("sea",)}, "backgrounds", "sea"),
            ({"motions": (("fly", 1.0),)}, "motions", ("fly", 1.0)),
            ({"motions": (("slide", -1.0),)}, "motions", ("slide", -1.0)),
            ({"motions": (("enter", 1.0),)}, "motions", (("enter", 1.0),)),
            ({"width": 16, "height": 16, "min_size": 0.2}, "min_size", 0.2),
        ],
    )
    def test_a_wrong_parameter_is_refused_by_name(self, wrong, argument, value):
        with refused(argument) as record:
            WorldConfig(**wrong)
        assert record.value.value is value or record.value.value == value

    def test_the_smallest_world_can_be_drawn(self):
        config = WorldConfig(width=32, height=32, max_objects=1, classes=("boat", "penguin"), min_size=0.3, frames=1)
        for index in range(30):
            assert SpriteWorld(config).render(index).mask.all()

    @pytest.mark.parametrize("index", [-1, 2**63, 1.0, True])
    def test_a_wrong_index_or_split_is_refused(self, index):
        with refused("index", value=index):
            WORLD.render(index)
        with refused("split", value="dev"):
            WORLD.render(0, split="dev")

    def test_clip_ids_name_split_and_index(self):
        assert clip_id("test", 7) == "sprites-test-000000007"
        assert parse_clip_id("sprites-test-000000007") == ("test", 7)
        for wrong in ("sprites-test-7", "sprites-dev-000000007", "got10k-test-000000007", "sprites-test-00000000x"):
            with refused("clip_id", value=wrong):
                parse_clip_id(wrong)

    def test_the_rate_is_measured(self):
        assert measure_rate(WorldConfig(max_objects=1), seconds=0.05, warm_up=1) > 0


class TestSource:
    def test_a_clip_equals_the_rendering_of_the_world(self):
        source = make_source("sprites", None, width=96, height=64, frames=5)
        clip, drawn = source.clip("val", 11), source.world.render(11, split="val")
        frames = [np.asarray(Image.open(io.BytesIO(frame))) for frame in clip.frames]
        np.testing.assert_array_equal(frames, drawn.video)
        np.testing.assert_array_equal(clip.boxes, drawn.boxes)
        np.testing.assert_array_equal(clip.mask, drawn.mask)
        assert (clip.labels, clip.caption) == (drawn.labels, drawn.caption)
        assert (clip.clip_id, clip.width, clip.height) == ("sprites-val-000000011", 96, 64)

    def test_a_record_round_trips(self):
        clip = make_source("sprites", None).clip("test", 3)
        again = deserialize(b"".join(serialize(clip)))
        for field in dataclasses.fields(clip):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(clip, field.name))

    def test_every_clip_is_valid(self):
        source = make_source("sprites", None, frames=4)
        for split in source.splits:
            for index in range(60):
                assert source.clip(split, index).num_frames == 4

    def test_ids_are_sorted_and_a_larger_split_starts_with_the_same_clips(self):
        few, more = (make_source("sprites", None, train_clips=count) for count in (11, 1200))
        ids = more.clip_ids("train")
        assert ids == sorted(set(ids))
        assert len(ids) == 1200
        assert ids[:11] == few.clip_ids("train")
        assert few.clip("train", 10).frames == more.clip("train", 10).frames

    def test_the_held_out_list_is_200_clips(self):
        assert len(make_source("sprites", None).clip_ids("test")) == 200

    def test_a_source_can_be_pickled(self):
        source = make_source("sprites", None, seed=3)
        again = pickle.loads(pickle.dumps(source))
        assert again.clip("train", 2).frames == source.clip("train", 2).frames

    def test_validation_reports_the_clips_and_the_world(self):
        report = make_source("sprites", None, train_clips=7, seed=3).validate()
        assert report.clips == {"train": 7, "val": 200, "test": 200}
        assert "64 x 64, 8 frames, seed 3" in report.notes[0]

    @pytest.mark.parametrize(
        ("options", "argument", "value"),
        [
            ({"colour": "red"}, "options", "colour"),
            ({"train_clips": -1}, "train_clips", -1),
            ({"width": 3}, "width", 3),
        ],
    )
    def test_wrong_options_are_refused(self, options, argument, value):
        with refused(argument, value=value):
            make_source("sprites", None, **options)

    def test_a_folder_and_a_clip_beyond_the_last_are_refused(self, tmp_path):
        with refused("source", path=tmp_path):
            make_source("sprites", tmp_path)
        source = make_source("sprites", None, test_clips=2)
        with refused("index", value=2):
            source.clip("test", 2)
        with refused("split", value="dev"):
            source.clip_ids("dev")
