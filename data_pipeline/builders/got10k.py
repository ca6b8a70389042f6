"""GOT-10k (Huang, Zhao and Huang 2019, arXiv:1810.11981): videos of one moving object each, with a box in every frame.

```
FOLDER/
  train/list.txt                               names of the sequences, one per line
  train/GOT-10k_Train_000001/00000001.jpg ...  frames, numbered from 1
                             groundtruth.txt   x,y,w,h in pixels, one line per frame
                             absence.label     1 where the object is out of view, one line per frame
                             cover.label       0..8, visible part of the object; checked, not used
                             cut_by_image.label  0 or 1; checked, not used
                             meta_info.ini     object_class, motion_class, resolution
  val/  test/                                  like train/; a test sequence has the box of its first frame only
```

The caption is `A {object_class} that is {motion_class}. `. Boxes are in pixels of the frames themselves.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_pipeline.builders import RawReport
from data_pipeline.builders.raw_clip import bad_clip_if_wrong, make_clip, no_objects
from data_pipeline.records.frames import MISSING, read_frame
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.files.tables import read_numbers
from smcd_jax.files.text_files import read_text
from smcd_jax.tracks import PixelTracks, read_got10k

# The 34 training videos with wrong labels that the reference excludes. The 35th entry of its list, "txt", excludes
# list.txt, because the reference matches names as substrings; here only folders are videos.
_EXCLUDED = """
1665 1849 1858 1867 1898 2446 2449 4419 5912 7610 7643 7645 7788 8628 8630 8721 8917
8925 8931 9027 9031 9032 9058 9059 9065 9094 9102 9210 9211 9214 9274 9302 9320 9323
"""
EXCLUDED_IDS = frozenset(map(int, _EXCLUDED.split()))
BOXES, ABSENCE, META, LIST = "groundtruth.txt", "absence.label", "meta_info.ini", "list.txt"
# Label files that are validated but not used, with their largest value.
_OTHER_LABELS = {"cover.label": 8, "cut_by_image.label": 1}
_NUMBER = re.compile(r"_(\d+)$")


class GOT10k:
    """Clips of GOT-10k; clip ids are the names of the sequences."""

    name = "got10k"
    splits: tuple[str, ...] = ("train", "val", "test")

    def __init__(self, folder: Path):
        self._folder = Path(folder)
        self._names: dict[str, tuple[str, ...]] = {}
        self._notes: list[str] = []
        found = [split for split in self.splits if (self._folder / split).is_dir()]
        if not found:
            raise SMCDError(
                f"{self._folder}: no folder train/, val/ or test/ found; use the folder of GOT-10k",
                argument="source",
                path=self._folder,
            )
        self.splits = tuple(found)
        for split in found:
            self._names[split] = self._listed(split)

    def clip_ids(self, split: str) -> tuple[str, ...]:
        """Returns the names of the sequences, sorted, without the excluded ones."""
        return self._names[split]

    def clip(self, split: str, index: int) -> Clip:
        """See `Source`."""
        name = self._names[split][index]
        folder = self._folder / split / name
        if not folder.is_dir():
            raise BadClip(f"{folder}: folder not found, although {LIST} lists it", kind="missing sequence")
        files = _frame_files(folder)
        with bad_clip_if_wrong(f"bad {BOXES} or labels"):
            lines = len(read_numbers(folder / BOXES, (4,)))
            first_box_only = split == "test" and lines == 1
            if lines != len(files) and not first_box_only:
                raise BadClip(
                    f"{folder / BOXES}: must have {len(files)} lines, one per frame, got {lines}", kind=f"short {BOXES}"
                )
            tracks = read_got10k(folder)
        if first_box_only:
            tracks = _first_box_only(tracks, len(files))
        else:
            _check_labels(folder, len(files))
        frames = [read_frame(file) for file in files]
        if split == "test" and tracks.labels == (None,):
            clip = make_clip(name, "", frames, tracks=no_objects(len(files), str(folder)))
            return replace(clip, notes=(*clip.notes, f"no {META}, hence no caption and no object"))
        if tracks.prompt is None:
            raise BadClip(f"{folder / META}: object_class or motion_class is missing", kind="no caption")
        return make_clip(name, tracks.prompt, frames, tracks=tracks)

    def validate(self) -> RawReport:
        """See `Source`."""
        if not any(self._names.values()):
            raise SMCDError(
                f"{self._folder}: no sequences found in {', '.join(self.splits)}; use the folder of GOT-10k",
                argument="source",
                path=self._folder,
                value=self.splits,
            )
        return RawReport({split: len(names) for split, names in self._names.items()}, tuple(self._notes))

    def _listed(self, split: str) -> tuple[str, ...]:
        folder = self._folder / split
        present = {entry.name for entry in folder.iterdir() if entry.is_dir()}
        if (folder / LIST).is_file():
            names = {line.strip() for line in read_text(folder / LIST).splitlines() if line.strip()}
            unlisted = present - names
            if unlisted:
                self._notes.append(f"{split}: {len(unlisted)} folders are not in {LIST}, for example {min(unlisted)}")
        else:
            names = {name for name in present if _NUMBER.search(name)}
            self._notes.append(f"{split}: {LIST} not found; every folder is treated as a sequence")
        excluded = {name for name in names if split == "train" and _identity(name) in EXCLUDED_IDS}
        if excluded:
            self._notes.append(f"{split}: {len(excluded)} sequences with wrong labels are left out")
        return tuple(sorted(names - excluded))


def _identity(name: str) -> int | None:
    found = _NUMBER.search(name)
    return int(found[1]) if found else None


def _frame_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("*.jpg") if not file.name.startswith("."))
    numbers = [int(file.stem) for file in files if file.stem.isdecimal()]
    if len(numbers) < len(files) or not files:
        raise BadClip(f"{folder}: frames must be named 00000001.jpg, 00000002.jpg and so on", kind=MISSING)
    for wanted, number in enumerate(numbers, 1):
        if number != wanted:
            raise BadClip(f"{folder}: frame {wanted:08d}.jpg is missing", kind=MISSING)
    return files


def _first_box_only(tracks: PixelTracks, frames: int) -> PixelTracks:
    boxes, present = np.zeros((frames, 1, 4)), np.zeros((frames, 1), bool)
    boxes[0], present[0] = tracks.boxes[0], True
    return replace(tracks, boxes=boxes, present=present)


def _check_labels(folder: Path, frames: int) -> None:
    if not (folder / ABSENCE).is_file():
        raise BadClip(f"{folder / ABSENCE}: file not found", kind="absent labels")
    for name, largest in _OTHER_LABELS.items():
        if not (folder / name).is_file():
            continue
        with bad_clip_if_wrong(f"bad {name}"):
            values = np.array(read_numbers(folder / name, (1,)))[:, 0]
        if len(values) != frames or not np.isin(values, np.arange(largest + 1)).all():
            raise BadClip(f"{folder / name}: must hold one number in 0..{largest} per frame", kind=f"bad {name}")
