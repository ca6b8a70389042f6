"""Export to VBench-I2V: videos and first frames under the names that its scripts expect.

These are ``videos/PROMPT-INDEX.mp4`` and, with ``--mode=custom_input``, ``images/PROMPT.jpg``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.video_store import GENERATED, REAL, VideoStore
from smcd_jax.files import write_atomically, write_json
from smcd_jax.media import write_video

VIDEOS, IMAGES, NAMES = "videos", "images", "names.json"
_LONGEST = 240  # longest name in bytes; leaves room for "-0.mp4" within the limit of 255 of most file systems


def export_vbench(store: VideoStore, folder: Path, *, fps: float, index: int = 0) -> int:
    """Writes video and real first frame of every clip with a caption, and ``names.json`` with the name of each clip.

    Args:
        store: Clips and videos.
        folder: Output folder; created if missing, and files of other indices in it are kept.
        fps: Frame rate of the videos, frames per second.
        index: Index of the sample; VBench uses five samples of each prompt, 0 to 4, with different seeds.

    Returns:
        Number of clips written.

    Raises:
        SMCDError: No clip has a caption, or a file cannot be written.
    """
    names = vbench_names((clip.clip_id, clip.caption) for clip in store.clips)
    if not names:
        raise SMCDError("--vbench needs captions, and no clip has one", argument="vbench")
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
    """Returns file names by clip id, without index and suffix: the captions, converted to valid names.

    A slash becomes a space, long captions are truncated, and clips with the same caption get a number, because their
    pictures differ.
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
