"""Scenes: exact descriptions of clips, with background, sprites with their boxes in every frame, and caption."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

from data_pipeline.sprites.atlas import SHADOW_MARGIN, Patch, Sprite, shadow, sprite, sprite_classes
from data_pipeline.sprites.backgrounds import draw_background
from data_pipeline.sprites.captions import caption
from data_pipeline.sprites.config import CROWD_SHARES, SPLITS, WorldConfig
from data_pipeline.sprites.motion import MOTIONS, PLANNED, Path, Setting, draw_crossing
from data_pipeline.sprites.rng import ClipRng

# Random streams. Changing one changes every clip.
_OBJECTS, _PATHS, _BACKGROUND, _CAPTION, _LIGHT, _START = range(6)
# Unless sprites are meant to cross, paths that overlap more than this are redrawn, and the best of all tries is used.
_MAX_OVERLAP, _TRIES = 0.08, 8


class Shadow(NamedTuple):
    """Shadows of a scene's sprites.

    Attributes:
        opacity: Opacity, 0 to 1.
        x: Shift to the right, relative to the square root of the sprite's area.
        y: Shift down, in the same units.
    """

    opacity: float
    x: float
    y: float


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One sprite of a scene.

    Attributes:
        label: Class, with color if the class has variable colors: "red car", "cat".
        name: Name of the class.
        color: Name of the color, or None.
        mirrored: Whether left and right of the atlas picture are swapped.
        phrase: Description of the motion: "moves to the right".
        boxes: Boxes `[T, 4]` of the whole sprite, x1, y1, x2, y2 in pixels; may exceed the picture.
    """

    label: str
    name: str
    color: str | None
    mirrored: bool
    phrase: str
    boxes: Float64[np.ndarray, "t 4"]

    @property
    def sprite(self) -> Sprite:
        """Drawable sprite of the object."""
        return sprite(self.name, self.color, mirrored=self.mirrored)


@dataclass(frozen=True, eq=False)
class Scene:
    """Complete description of a clip. Later objects are drawn over earlier ones.

    Attributes:
        caption: Caption that names every label.
        background: Background `[H, W, 3]` of all frames, uint8.
        objects: Objects, one to four.
        min_visible: Smallest visible share of an object; objects less visible are masked out.
        crossing: Whether the first two objects cross.
        shadow: Shadows of the sprites; None for a scene without shadows.
        start: Objects of the first frame that replace `objects`, one for each or an empty tuple; None for `objects`.
    """

    caption: str
    background: UInt8[np.ndarray, "h w 3"]
    objects: tuple[SceneObject, ...]
    min_visible: float
    crossing: bool
    shadow: Shadow | None = None
    start: tuple[SceneObject, ...] | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames, T."""
        return len(self.objects[0].boxes)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label per object; all different."""
        return tuple(item.label for item in self.objects)

    def shown(self, frame: int) -> tuple[SceneObject, ...]:
        """Returns the objects that a frame shows: `objects`, or `start` in the first frame."""
        return self.objects if frame or self.start is None else self.start

    def patch(self, item: int, frame: int) -> Patch | None:
        """Draws one object in one frame, clipped to the picture; returns None if it is outside or not shown."""
        height, width = self.background.shape[:2]
        if item >= len(self.shown(frame)):
            return None
        scene_object = self.shown(frame)[item]
        return scene_object.sprite.draw(scene_object.boxes[frame].tolist(), width, height)

    def shadow_patch(self, item: int, frame: int) -> Patch | None:
        """Returns the shadow of one object in one frame, or None if it casts no shadow."""
        if self.shadow is None or item >= len(self.shown(frame)):
            return None
        (height, width), scene_object = self.background.shape[:2], self.shown(frame)[item]
        box = scene_object.boxes[frame]
        side = float(np.sqrt((box[2:] - box[:2]).prod()))
        margin = SHADOW_MARGIN * side
        x, y = self.shadow.x * side, self.shadow.y * side
        wide = box + np.array([x - margin, y - margin, x + margin, y + margin])
        drawn = shadow(scene_object.name, mirrored=scene_object.mirrored).draw(wide.tolist(), width, height)
        if drawn is None:
            return None
        return drawn._replace(pixels=np.rint(drawn.pixels * self.shadow.opacity).astype(np.uint8))

    def layer(self, item: int, frame: int) -> UInt8[np.ndarray, "h w 4"]:
        """Draws one object in one frame on a transparent picture, as premultiplied RGBA."""
        picture = np.zeros((*self.background.shape[:2], 4), np.uint8)
        patch = self.patch(item, frame)
        if patch is not None:
            picture[patch.region] = patch.pixels
        return picture


def draw_scene(config: WorldConfig, split: str, index: int) -> Scene:
    """Draws the scene of one clip, a pure function of the arguments.

    Args:
        config: Parameters of the world.
        split: Name of the split.
        index: Index of the clip in the split.
    """
    object_rng, path_rng, background_rng, caption_rng, light_rng, start_rng = (
        ClipRng(config.seed, split=SPLITS[split], index=index, stream=stream)
        for stream in (_OBJECTS, _PATHS, _BACKGROUND, _CAPTION, _LIGHT, _START)
    )
    count = config.min_objects + object_rng.below(config.max_objects - config.min_objects + 1)
    names = object_rng.sample(config.classes, count)
    crossing = count > 1 and object_rng.chance(config.crossing_share)
    paths = _draw_paths(config, names, path_rng, crossing=crossing)
    objects = tuple(_scene_object(config, name, path, object_rng) for name, path in zip(names, paths, strict=True))
    labels, phrases = [item.label for item in objects], [path.phrase for path in paths]
    kind = background_rng.pick(config.backgrounds)
    return Scene(
        caption=caption(labels, phrases, caption_rng, crossing=crossing),
        background=draw_background(kind, background_rng, width=config.width, height=config.height),
        objects=objects,
        min_visible=config.min_visible,
        crossing=crossing,
        shadow=_shadow(config, light_rng),
        start=_start(config, objects, start_rng),
    )


def _shadow(config: WorldConfig, rng: ClipRng) -> Shadow | None:
    if not rng.chance(config.shadow_share):
        return None
    return Shadow(rng.uniform(0.3, 0.5), rng.uniform(-0.12, 0.12), rng.uniform(0.06, 0.14))


def _start(config: WorldConfig, objects: tuple[SceneObject, ...], rng: ClipRng) -> tuple[SceneObject, ...] | None:
    """Draws the objects of a first frame that differs from the rest of the clip; sizes are unchanged."""
    place = rng.unit()
    if place < config.empty_start_share:
        return ()
    if place >= config.empty_start_share + config.other_start_share:
        return None
    shown = {item.name for item in objects}
    others = [name for name in config.classes if name not in shown]
    if len(others) < len(objects):
        return None
    starts = []
    for item, name in zip(objects, rng.sample(others, len(objects)), strict=True):
        color, flip = rng.pick(config.colors), rng.chance(0.5)
        color = color if sprite_classes()[name].hue else None
        sides = item.boxes[:, 2:] - item.boxes[:, :2]
        middle = (item.boxes[:, 2:] + item.boxes[:, :2]) / 2
        half = 0.5 * np.sqrt(sides.prod(axis=1, keepdims=True)) * sprite_classes()[name].aspect ** np.array([0.5, -0.5])
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        mirrored = flip and sprite_classes()[name].facing is not None
        label = f"{color} {name}" if color else name
        starts.append(replace(item, label=label, name=name, color=color, mirrored=mirrored, boxes=boxes))
    return tuple(starts)


def _draw_paths(config: WorldConfig, names: list[str], rng: ClipRng, *, crossing: bool) -> list[Path]:
    times = np.concatenate([PLANNED, np.arange(config.frames) / max(config.frames - 1, 1)])
    crowd = CROWD_SHARES[len(names)]
    settings = [
        Setting(times, _reach(config, name), crowd * config.min_size, crowd * config.max_size) for name in names
    ]
    paths = list(draw_crossing(settings[0], settings[1], rng)) if crossing else []
    planned = [_planned(path, setting) for path, setting in zip(paths, settings, strict=False)]
    for setting in settings[len(paths) :]:
        # The first frame, which conditions the model, shows at least the first object.
        kinds = [(kind, weight) for kind, weight in config.motions if paths or MOTIONS[kind].starts_inside]
        kind = rng.weighted(kinds)
        path, sides = _apart(setting, kind, planned, rng)
        paths.append(path)
        planned.append(sides)
    start = len(PLANNED)
    return [Path(path.centers[start:], path.sizes[start:], path.phrase) for path in paths]


def _apart(setting: Setting, kind: str, others: list[np.ndarray], rng: ClipRng) -> tuple[Path, np.ndarray]:
    """Draws a path of one kind with little overlap with other paths; also returns its planned boxes."""
    least, best = np.inf, None
    for _ in range(_TRIES):
        path = MOTIONS[kind].draw(setting, rng)
        boxes = _planned(path, setting)
        overlap = max((_overlap(boxes, other) for other in others), default=0.0)
        if overlap < least:
            least, best = overlap, (path, boxes)
        if overlap <= _MAX_OVERLAP:
            break
    return best


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the shared area of two boxes divided by the smaller area, averaged over the planned times.

    A quarter of the overlap at the first time is added: the first frame conditions the model and should show every
    sprite.
    """
    shared = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    areas = np.minimum(*((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (first, second)))
    shares = np.maximum(shared, 0).prod(axis=1) / areas
    return float(shares.mean() + 0.25 * shares[0])


def _scene_object(config: WorldConfig, name: str, path: Path, rng: ClipRng) -> SceneObject:
    sprite_class = sprite_classes()[name]
    # Drawn for every object, so that a class with fixed colors does not change the next object.
    color, flip = rng.pick(config.colors), rng.chance(0.5)
    color = color if sprite_class.hue else None
    travel = path.centers[-1, 0] - path.centers[0, 0]
    goes = ("right" if travel > 0 else "left") if abs(travel) > 0.02 else ("right" if flip else "left")
    size = np.array([config.width, config.height, config.width, config.height], np.float64)
    return SceneObject(
        label=f"{color} {name}" if color else name,
        name=name,
        color=color,
        mirrored=sprite_class.facing is not None and sprite_class.facing != goes,
        phrase=path.phrase,
        boxes=_sides(path, _reach(config, name)) * size,
    )


def _reach(config: WorldConfig, name: str) -> Float64[np.ndarray, " 2"]:
    """Returns the distance from center to side of a sprite of size 1, x and y in 0..1 of the picture."""
    aspect = sprite_classes()[name].aspect
    half = 0.5 * min(config.width, config.height)
    return np.array([half * aspect**0.5 / config.width, half / aspect**0.5 / config.height])


def _planned(path: Path, setting: Setting) -> Float64[np.ndarray, "p 4"]:
    """Returns the boxes at the planned times."""
    planned = Path(path.centers[: len(PLANNED)], path.sizes[: len(PLANNED)], path.phrase)
    return _sides(planned, setting.reach)


def _sides(path: Path, reach: np.ndarray) -> Float64[np.ndarray, "t 4"]:
    """Returns boxes x1, y1, x2, y2 in 0..1 of the picture."""
    half = np.outer(path.sizes, reach)
    return np.concatenate([path.centers - half, path.centers + half], axis=1)
