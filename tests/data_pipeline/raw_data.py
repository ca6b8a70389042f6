"""Small raw data sets in their original layouts for tests of the builders, and a source with damaged clips."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.builders import RawReport
from data_pipeline.records.prepare import prepare
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip, Clip

SIZE = (64, 48)  # width, height


def jpeg(seed: int, size=SIZE) -> bytes:
    """Encodes a picture that depends on the seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def clips_of(name: str, folder: Path | None, output: Path, split: str = "train", **options) -> dict[str, Clip]:
    """Prepares a split and returns its clips by id."""
    prepare(name, folder, output, **options)
    records = RecordFolder(output, split)
    return {clip_id: records.clip(position) for position, clip_id in enumerate(records.clip_ids)}


def got10k_sequence(folder: Path, boxes, *, absence=None, size=SIZE, seed=0, **files: str | None) -> list[bytes]:
    """Writes one sequence folder. `files` replaces the text of files, named with _ for dots; None omits a file.

    Returns:
        The bytes of its frames.
    """
    folder.mkdir(parents=True)
    frames = [jpeg(seed * 1000 + number, size) for number in range(len(boxes))]
    for number, frame in enumerate(frames, 1):
        (folder / f"{number:08d}.jpg").write_bytes(frame)
    meta = (
        "[METAINFO]\nurl: https://example.org/watch\nbegin: 00:00:29\nend: 00:00:39\nanno_fps: 10Hz\n"
        "object_class: hawksbill turtle\nmotion_class: swimming\nmajor_class: turtle\nroot_class: animal\n"
        f"motion_adverb: slowly\nresolution: ({size[0]}, {size[1]})\n"
    )
    contents = {
        "groundtruth.txt": "".join(",".join(f"{side:.4f}" for side in box) + "\n" for box in boxes),
        "absence.label": "".join(f"{value}\n" for value in absence or [0] * len(boxes)),
        "cover.label": "8\n" * len(boxes),
        "cut_by_image.label": "0\n" * len(boxes),
        "meta_info.ini": meta,
    }
    for name, text in contents.items():
        text = files.get(name.replace(".", "_"), text)
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    return frames


def youtube_vis(folder: Path, videos: dict, *, captions: dict | None = None) -> dict[str, list[bytes]]:
    """Writes `train/` and `caption.json`. A video is {"objects": [(category, boxes or None per frame)], "length": T}.

    Returns:
        The bytes of the frames by video.
    """
    categories = sorted({category for video in videos.values() for category, _ in video["objects"]})
    content = {
        "videos": [],
        "annotations": [],
        "categories": [{"id": n, "name": c} for n, c in enumerate(categories, 1)],
    }
    frames = {}
    for number, (name, video) in enumerate(videos.items(), 1):
        files = [f"{name}/{frame * 5:05d}.jpg" for frame in range(video["length"])]
        entry = {"id": number, "width": SIZE[0], "height": SIZE[1], "length": len(files), "file_names": files}
        content["videos"].append({**entry, "license": 1, "flickr_url": "", "coco_url": "", "date_captured": ""})
        (folder / "train" / "JPEGImages" / name).mkdir(parents=True)
        frames[name] = [jpeg(number * 1000 + frame) for frame in range(len(files))]
        for file, data in zip(files, frames[name], strict=True):
            (folder / "train" / "JPEGImages" / file).write_bytes(data)
        for category, boxes in video["objects"]:
            identity = len(content["annotations"]) + 1
            annotation = {"id": identity, "video_id": number, "category_id": categories.index(category) + 1}
            annotation |= {"iscrowd": 0, "bboxes": boxes, "areas": [b and b[2] * b[3] for b in boxes]}
            content["annotations"].append({**annotation, "width": SIZE[0], "height": SIZE[1], "segmentations": None})
    (folder / "train" / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    texts = {name: f"a video of {name}" for name in videos} if captions is None else captions
    (folder / "caption.json").write_text(json.dumps(texts), encoding="utf-8")
    return frames


def grounding_item(number: int, caption: str, objects, *, embeddings=None, **changes) -> dict:
    """Returns the JSON object in a line of GLIGEN's TSV; each object is (phrase in the caption, bbox)."""
    annotations = []
    for index, (phrase, box) in enumerate(objects):
        start = caption.index(phrase)
        annotation = {"id": number * 100 + index, "bbox": box, "tokens_positive": [[start, start + len(phrase)]]}
        if embeddings is not None:
            annotation["text_embedding_before"] = base64.b64encode(embeddings[index].astype("<f4").tobytes()).decode()
        annotations.append(annotation)
    image = base64.b64encode(jpeg(number)).decode()
    item = {"data_id": number, "image": image, "file_name": f"{number}.jpg", "caption": caption, "annos": annotations}
    return {**item, **changes}


def grounding_shard(path: Path, lines: list[str | dict], *, index: str | None = "right") -> None:
    """Writes a TSV file and its line index; `index` is the index's text, "right" for a correct one or None for none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [line if isinstance(line, str) else f"{line['data_id']}\t{json.dumps(line)}" for line in lines]
    data = "".join(row + "\n" for row in rows).encode()
    path.write_bytes(data)
    starts = np.cumsum([0, *(len(row.encode()) + 1 for row in rows)])[:-1]
    right = "".join(f"{start}\n" for start in starts)
    if index is not None:
        path.with_suffix(".lineidx").write_text(right if index == "right" else index)


class Misbehaving:
    """A source of `clips` clips; those in `bad` are damaged, and reading clip number `deadly` ends the process."""

    name = "misbehaving"
    splits = ("train", "val")

    def __init__(self, folder: Path | None = None, *, clips: int = 8, bad: tuple[int, ...] = (), deadly: int = -1):
        self.clips, self.bad, self.deadly = clips, tuple(bad), deadly

    def clip_ids(self, split: str) -> list[str]:
        return [f"{split}-{index:06d}" for index in range(self.clips if split == "train" else 2)]

    def clip(self, split: str, index: int) -> Clip:
        if split == "train" and index == self.deadly:
            os._exit(9)
        clip_id = self.clip_ids(split)[index]
        if split == "train" and index in self.bad:
            raise BadClip(f"{clip_id}: is bad", kind="made bad")
        count = 1 + index % 3
        boxes = np.tile(np.array([0.1, 0.2, 0.3, 0.4], np.float32), (count, 1, 1))
        frames = tuple(jpeg(index * 10 + frame, (160, 120)) for frame in range(count))
        return Clip(clip_id, f"clip {index}", 160, 120, frames, boxes, np.ones((count, 1)), ("thing",))

    def validate(self) -> RawReport:
        return RawReport({split: len(self.clip_ids(split)) for split in self.splits}, ("a note about the raw data",))
