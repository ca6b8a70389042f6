"""Owns a scene, the exact knowledge of a clip: background, sprites with their places in every frame, caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8

from data_pipeline.sprites.atlas import Patch, Sprite, sprite, sprite_classes
from data_pipeline.sprites.backgrounds import draw_background
from data_pipeline.sprites.captions import caption
from data_pipeline.sprites.config import CROWD_SHARES, SPLITS, WorldConfig
from data_pipeline.sprites.motion import MOTIONS, PLANNED, Path, Setting, draw_crossing
from data_pipeline.sprites.rng import Draws

# Streams of chance, one per aspect. Never change one: every clip would change.
_WHAT, _WHERE, _BEHIND, _WORDS = 0, 1, 2, 3
# Unless sprites are to cross, paths are drawn anew while they hide each other more than this, and the best is taken.
_MAX_OVERLAP, _TRIES = 0.08, 8


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One sprite of a scene.

    Attributes:
        label: class with colour where the class takes one: "red car", "cat".
        name: the class.
        color: the word, or None.
        mirrored: left and right of the picture in the atlas are swapped.
        phrase: what it does: "moves to the right".
        boxes: `[T, 4]`, x1, y1, x2, y2 of the whole sprite in pixels, where nothing hides it; may lie outside.
    """

    label: str
    name: str
    color: str | None
    mirrored: bool
    phrase: str
    boxes: Float64[np.ndarray, "t 4"]

    @property
    def sprite(self) -> Sprite:
        """What to draw, at any box."""
        return sprite(self.name, self.color, mirrored=self.mirrored)


@dataclass(frozen=True, eq=False)
class Scene:
    """All there is to know of a clip. Later objects are drawn over earlier ones.

    Attributes:
        caption: names every label.
        background: uint8 `[H, W, 3]`, the same in all frames.
        objects: one to four.
        min_visible: an object of which a frame shows less than this share is masked out.
        crossing: the first two objects cross.
    """

    caption: str
    background: UInt8[np.ndarray, "h w 3"]
    objects: tuple[SceneObject, ...]
    min_visible: float
    crossing: bool

    @property
    def num_frames(self) -> int:
        """Number of frames, T."""
        return len(self.objects[0].boxes)

    @property
    def labels(self) -> tuple[str, ...]:
        """One per object; all different."""
        return tuple(item.label for item in self.objects)

    def patch(self, item: int, frame: int) -> Patch | None:
        """One object alone in one frame, cut to the picture; None where it is outside."""
        height, width = self.background.shape[:2]
        of = self.objects[item]
        return of.sprite.draw(of.boxes[frame].tolist(), width, height)

    def layer(self, item: int, frame: int) -> UInt8[np.ndarray, "h w 4"]:
        """One object alone in one frame on a transparent picture: RGBA with colour multiplied by opacity."""
        picture = np.zeros((*self.background.shape[:2], 4), np.uint8)
        patch = self.patch(item, frame)
        if patch is not None:
            picture[patch.region] = patch.pixels
        return picture


def draw_scene(config: WorldConfig, split: str, index: int) -> Scene:
    """The scene of one clip: a pure function of its arguments."""
    what, where, behind, words = (
        Draws(config.seed, split=SPLITS[split], index=index, stream=stream)
        for stream in (_WHAT, _WHERE, _BEHIND, _WORDS)
    )
    count = config.min_objects + what.below(config.max_objects - config.min_objects + 1)
    names = what.sample(config.classes, count)
    crossing = count > 1 and what.chance(config.crossing_share)
    paths = _draw_paths(config, names, where, crossing=crossing)
    objects = tuple(_scene_object(config, name, path, what) for name, path in zip(names, paths, strict=True))
    kind = behind.pick(config.backgrounds)
    return Scene(
        caption=caption([item.label for item in objects], [path.phrase for path in paths], words, crossing=crossing),
        background=draw_background(kind, behind, width=config.width, height=config.height),
        objects=objects,
        min_visible=config.min_visible,
        crossing=crossing,
    )


def _draw_paths(config: WorldConfig, names: list[str], draws: Draws, *, crossing: bool) -> list[Path]:
    times = np.concatenate([PLANNED, np.arange(config.frames) / max(config.frames - 1, 1)])
    crowd = CROWD_SHARES[len(names)]
    settings = [
        Setting(times, _reach(config, name), crowd * config.min_size, crowd * config.max_size) for name in names
    ]
    paths = list(draw_crossing(settings[0], settings[1], draws)) if crossing else []
    planned = [_planned(path, setting) for path, setting in zip(paths, settings, strict=False)]
    for setting in settings[len(paths) :]:
        # The first frame, which the model is given, shows at least the first object.
        kinds = [(kind, weight) for kind, weight in config.motions if paths or MOTIONS[kind].starts_inside]
        kind = draws.weighted(kinds)
        path, sides = _apart(setting, kind, planned, draws)
        paths.append(path)
        planned.append(sides)
    start = len(PLANNED)
    return [Path(path.centers[start:], path.sizes[start:], path.phrase) for path in paths]


def _apart(setting: Setting, kind: str, others: list[np.ndarray], draws: Draws) -> tuple[Path, np.ndarray]:
    """A path of the kind, with its planned boxes, that hides little of the others and is little hidden."""
    least, best = np.inf, None
    for _ in range(_TRIES):
        path = MOTIONS[kind].draw(setting, draws)
        boxes = _planned(path, setting)
        overlap = max((_overlap(boxes, other) for other in others), default=0.0)
        if overlap < least:
            least, best = overlap, (path, boxes)
        if overlap <= _MAX_OVERLAP:
            break
    return best


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """The area that two boxes share over the smaller of their areas, mean over the planned times.

    The first counts again with a quarter: it is the picture that a model is given, and should show every sprite.
    """
    shared = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    areas = np.minimum(*((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (first, second)))
    shares = np.maximum(shared, 0).prod(axis=1) / areas
    return float(shares.mean() + 0.25 * shares[0])


def _scene_object(config: WorldConfig, name: str, path: Path, draws: Draws) -> SceneObject:
    of_class = sprite_classes()[name]
    # Drawn for every object, used or not, so that a class that takes no colour leaves the next object as it is.
    color, flip = draws.pick(config.colors), draws.chance(0.5)
    color = color if of_class.hue else None
    travel = path.centers[-1, 0] - path.centers[0, 0]
    goes = ("right" if travel > 0 else "left") if abs(travel) > 0.02 else ("right" if flip else "left")
    size = np.array([config.width, config.height, config.width, config.height], np.float64)
    return SceneObject(
        label=f"{color} {name}" if color else name,
        name=name,
        color=color,
        mirrored=of_class.facing is not None and of_class.facing != goes,
        phrase=path.phrase,
        boxes=_sides(path, _reach(config, name)) * size,
    )


def _reach(config: WorldConfig, name: str) -> Float64[np.ndarray, " 2"]:
    """From centre to side of the sprite at size 1, x and y in 0..1 of the picture."""
    aspect = sprite_classes()[name].aspect
    half = 0.5 * min(config.width, config.height)
    return np.array([half * aspect**0.5 / config.width, half / aspect**0.5 / config.height])


def _planned(path: Path, setting: Setting) -> Float64[np.ndarray, "p 4"]:
    """Boxes at the planned times."""
    planned = Path(path.centers[: len(PLANNED)], path.sizes[: len(PLANNED)], path.phrase)
    return _sides(planned, setting.reach)


def _sides(path: Path, reach: np.ndarray) -> Float64[np.ndarray, "t 4"]:
    """x1, y1, x2, y2 in 0..1 of the picture."""
    half = np.outer(path.sizes, reach)
    return np.concatenate([path.centers - half, path.centers + half], axis=1)
