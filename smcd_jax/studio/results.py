"""The output folder: one subfolder per job with the files of `smcd animate`. The history lists these folders."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_json
from smcd_jax.pipeline.clip_files import ClipFiles

FORMATS = ("mp4", "gif", "frames")
_NAME, _PICTURE, _TRACKS, _SETTINGS = "video", "picture.png", "tracks.json", "settings.json"
_ID = re.compile(r"[0-9a-f]{24}")
_LOCK, _DELETED = ".studio.lock", ".deleted-"


@dataclasses.dataclass(frozen=True)
class Entry:
    """Folder of a job.

    Attributes:
        id: Id of the job; ids sort by time.
        folder: Folder of the files.
        settings: Request as the client sent it.
        created: Time of the request, in seconds since 1970.
    """

    id: str
    folder: Path
    settings: Mapping[str, Any]
    created: float

    @property
    def files(self) -> ClipFiles:
        """Result files, named as by `smcd animate`."""
        count, drawn = self.settings["num_videos"], self.settings["tracks"] is not None
        return ClipFiles(self.folder, _NAME, FORMATS, count, drawn)

    def arguments(self) -> dict[str, Any]:
        """Returns the options of `smcd animate` that make this entry; paths are relative to the folder."""
        settings = self.settings
        values = {"image": _PICTURE, "output": _NAME, **settings["options"]}
        values["num_videos_per_prompt"] = settings["num_videos"]
        for name in ("prompt", "negative_prompt"):
            if settings[name] is not None:
                values[name] = settings[name]
        if settings["tracks"] is not None:
            values["tracks"] = _TRACKS
        for name in settings["pictures"]:
            values[name] = f"{name}.png"
        return values

    def listed_files(self) -> dict[str, Path]:
        """Returns the files of a complete entry by name; folders of frames are listed as zip files."""
        files = self.files
        found = {_PICTURE: self.folder / _PICTURE}
        if self.settings["tracks"] is not None:
            found[_TRACKS] = self.folder / _TRACKS
        for path in files.paths():
            found[f"{path.name}.zip" if path.name.endswith("_frames") else path.name] = path
        return found


class Results:
    """The output folder of a studio; only one studio uses it at a time.

    A folder belongs to the history once all its files exist. All files get their final names together, so an entry is
    complete or absent, even if the server is killed.
    """

    def __init__(self, folder: Path):
        """Opens the folder, creating it if necessary.

        Raises:
            SMCDError: Another studio uses the folder, or it cannot be written.
        """
        self.folder = folder.absolute()
        self._cache: dict[str, dict[str, Any]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder / _LOCK)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            message = f"{self.folder}: cannot be used ({reason}); choose another --output"
            raise SMCDError(message, argument="output", path=self.folder) from error
        for leftover in self.folder.glob(f"{_DELETED}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Releases the folder for another studio."""
        os.close(self._lock)

    def create(self, settings: Mapping[str, Any], pictures: Mapping[str, Path]) -> Entry:
        """Creates the folder of a job with its inputs.

        Args:
            settings: Request as the client sent it.
            pictures: Picture files by option; "image" is the first frame.

        Raises:
            SMCDError: The disk is full, or a picture has been removed.
        """
        created = time.time()
        entry_id = f"{time.time_ns():016x}{secrets.token_hex(4)}"
        others = [name for name in pictures if name != "image"]
        entry = Entry(entry_id, self.folder / entry_id, {**settings, "pictures": others}, created)
        try:
            entry.folder.mkdir()
            for name, path in pictures.items():
                _link(path, entry.folder / (_PICTURE if name == "image" else f"{name}.png"))
            if settings["tracks"] is not None:
                (entry.folder / _TRACKS).write_text(json.dumps(settings["tracks"], indent=1), encoding="utf-8")
            write_json(entry.folder / _SETTINGS, {"settings": entry.settings, "created": created})
        except OSError as error:
            self.remove(entry_id)
            message = f"cannot write the inputs ({(error.strerror or str(error)).lower()}); free some space"
            raise SMCDError(message, argument="output", path=self.folder) from error
        except SMCDError:
            self.remove(entry_id)
            raise
        return entry

    def entry(self, entry_id: str) -> Entry:
        """Returns an entry, whether it is complete or not.

        Raises:
            SMCDError: There is no such entry.
        """
        missing = SMCDError("no such entry; it may have been deleted", argument="id", value=entry_id[:60])
        if not _ID.fullmatch(entry_id):
            raise missing
        folder = self.folder / entry_id
        try:
            content = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
            settings = content["settings"]
            if not {"num_videos", "tracks", "options", "prompt", "negative_prompt", "pictures"} <= settings.keys():
                raise missing
            return Entry(entry_id, folder, settings, float(content["created"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise missing from error

    def history(self) -> list[dict[str, Any]]:
        """Returns the descriptions of the complete entries, newest first."""
        names = sorted((item.name for item in self.folder.iterdir() if _ID.fullmatch(item.name)), reverse=True)
        self._cache = {name: known for name, known in self._cache.items() if name in names}
        return [described for name in names if (described := self._described(name)) is not None]

    def described(self, entry_id: str) -> dict[str, Any]:
        """Returns the description of a complete entry.

        Raises:
            SMCDError: There is no such entry.
        """
        entry = self.entry(entry_id)
        described = self._described(entry_id)
        if described is None:
            raise SMCDError("this video is not finished", argument="id", value=entry.id)
        return described

    def unfinished(self) -> list[Entry]:
        """Returns the entries without results, oldest first."""
        names = sorted(item.name for item in self.folder.iterdir() if _ID.fullmatch(item.name))
        found = []
        for name in names:
            try:
                entry = self.entry(name)
            except SMCDError:
                continue
            if not entry.files.complete():
                found.append(entry)
        return found

    def remove(self, entry_id: str) -> None:
        """Removes the folder of an entry."""
        folder, aside = self.folder / entry_id, self.folder / f"{_DELETED}{entry_id}"
        self._cache.pop(entry_id, None)
        try:
            os.rename(folder, aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)

    def _described(self, entry_id: str) -> dict[str, Any] | None:
        if entry_id not in self._cache:
            try:
                entry = self.entry(entry_id)
                if not entry.files.complete():
                    return None
                self._cache[entry_id] = _description(entry)
            except (SMCDError, OSError, ValueError, KeyError, TypeError):
                return None  # written or damaged by another program
        return self._cache[entry_id]


def _description(entry: Entry) -> dict[str, Any]:
    files, base = entry.files, f"/api/history/{entry.id}/files"
    videos = []
    for index in range(files.count):
        made = json.loads(files.description(index).read_text(encoding="utf-8"))
        frames = files.video(index, "frames")
        options = made["options"]
        videos.append(
            {
                "mp4": f"{base}/{files.video(index, 'mp4').name}",
                "gif": f"{base}/{files.video(index, 'gif').name}",
                "boxes_mp4": f"{base}/{files.boxes(index).name}" if files.boxes_drawn else None,
                "frames": f"{base}/{frames.name}.zip",
                "json": f"{base}/{files.description(index).name}",
                "num_frames": sum(1 for _ in frames.iterdir()),
                "fps": options["fps"],
                "width": options["width"],
                "height": options["height"],
                "seed": made["seed"],
            }
        )
    return {
        "id": entry.id,
        "created": entry.created,
        "settings": {name: value for name, value in entry.settings.items() if name != "pictures"},
        "picture": f"{base}/{_PICTURE}",
        "videos": videos,
        "tracks": f"{base}/{_TRACKS}" if entry.settings["tracks"] is not None else None,
        "preview": None,
    }


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # stored pictures are never modified, so a link is enough
    except OSError:
        shutil.copyfile(source, target)


def _locked(path: Path) -> int:
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        message = f"{path.parent} is used by another smcd studio; stop it, or choose another --output"
        raise SMCDError(message, argument="output", path=path.parent) from error
    return descriptor
