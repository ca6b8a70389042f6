"""The label of a sprite is recognized at its box, in blurred frames too; covered sprites are left out."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.ndimage import gaussian_filter

from data_pipeline.sprites import SpriteWorld, WorldConfig, render_scene
from smcd_jax.evaluation.trackers.sprite_labels import recognized_labels

WORLD = WorldConfig(
    classes=("cat", "car", "soccer ball", "balloon"),
    colors=("red", "blue"),
    backgrounds=("photographs",),
    shadow_share=1.0,
    frames=3,
    max_objects=2,
)


def _shares(change) -> list[float]:
    """Returns the share of recognized frames of each object of ten scenes, after a change of the video."""
    shares = []
    for index in range(10):
        scene = SpriteWorld(WORLD).scene(index, split="test")
        drawn = render_scene(scene)
        found = recognized_labels(change(drawn.video), scene, drawn.mask, WORLD.labels)
        shares += [np.mean([label == scene.labels[item] for label in seen]) for item, seen in found.items()]
    return shares


def test_sprites_with_shadows_are_recognized():
    assert np.mean(_shares(lambda video: video)) > 0.97


def test_blurred_sprites_are_recognized():
    assert np.mean(_shares(lambda video: gaussian_filter(video, (0, 2, 2, 0)))) > 0.9


def test_another_sprite_in_the_same_place_is_recognized_as_itself():
    scene = SpriteWorld(dataclasses.replace(WORLD, max_objects=1)).scene(0, split="test")
    (item,) = scene.objects
    name = "balloon" if item.name != "balloon" else "soccer ball"
    color = "blue" if name == "balloon" else None
    label = f"{color} {name}" if color else name
    other = dataclasses.replace(scene, objects=(dataclasses.replace(item, label=label, name=name, color=color),))
    drawn = render_scene(other)
    assert set(recognized_labels(drawn.video, scene, drawn.mask, WORLD.labels)[0]) == {label}


def test_an_object_under_another_one_is_left_out():
    scene = SpriteWorld(dataclasses.replace(WORLD, min_objects=2)).scene(0, split="test")
    first, second = scene.objects
    together = dataclasses.replace(scene, objects=(first, dataclasses.replace(second, boxes=first.boxes)))
    drawn = render_scene(together)
    assert recognized_labels(drawn.video, together, np.ones_like(drawn.mask), WORLD.labels) == {}
