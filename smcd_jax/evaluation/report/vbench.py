"""Owns the export to VBench-I2V: videos and first frames under the names that its scripts look for.

Those take ``videos/PROMPT-INDEX.mp4`` and, for videos of one's own (``--mode=custom_input``), ``images/PROMPT.jpg``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.video_store import GENERATED, REAL, ClipStore
from smcd_jax.files import write_atomically, write_json
from smcd_jax.media import write_video

VIDEOS, IMAGES, NAMES = "videos", "images", "names.json"
_LONGEST = 240  # bytes of a name, with room for "-0.mp4" below the 255 of most file systems


def export_vbench(store: ClipStore, folder: Path, *, fps: float, index: int = 0) -> int:
    """Writes every clip with a caption: the video, the real first frame, and which clip has which name.

    Args:
        store: of the clips.
        folder: made where it is missing; files of other indices in it stay.
        fps: of the videos.
        index: of the sample; VBench takes five of each prompt, 0 to 4, of different seeds.

    Returns:
        Number of clips written.

    Raises:
        SMCDError: no clip has a caption, or a file cannot be written.
    """
    names = vbench_names((clip.clip_id, clip.caption) for clip in store.clips)
    if not names:
        raise SMCDError("VBench names videos by their prompts, and no clip here has a caption")
    for part in (VIDEOS, IMAGES):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for clip, videos in store.pairs():
        if clip.clip_id not in names:
            continue
        name = names[clip.clip_id]
        write_video(videos[GENERATED], folder / VIDEOS / f"{name}-{index}.mp4", fps=fps)
        picture = io.BytesIO()
        Image.fromarray(videos[REAL][0]).save(picture, "JPEG", quality=95, subsampling=0)
        with write_atomically(folder / IMAGES / f"{name}.jpg") as temporary:
            temporary.write_bytes(picture.getvalue())
    write_json(folder / NAMES, names)
    return len(names)


def vbench_names(captions: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Clip id to the name of its files without index and suffix: its caption, made fit for a file.

    A slash becomes a blank, long captions lose their end, and where two clips have one caption the later ones get a
    number, for their pictures differ.
    """
    names: dict[str, str] = {}
    used: set[str] = set()
    for clip_id, caption in captions:
        plain = " ".join(
            "".join(letter if letter.isprintable() and letter != "/" else " " for letter in caption).split()
        )
        plain = plain.encode()[:_LONGEST].decode(errors="ignore").strip().lstrip(".")
        if not plain:
            continue
        name, number = plain, 1
        while name in used:
            number += 1
            name = f"{plain} ({number})"
        used.add(name)
        names[clip_id] = name
    return names
