"""The state of one studio: models, pictures, results and the queue. The routes of `smcd_jax.studio.app` use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import smcd_jax
from smcd_jax.errors import SMCDError
from smcd_jax.files.examples import EXAMPLES
from smcd_jax.media.pictures import Image
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.studio.guard import UPLOAD_BYTES
from smcd_jax.studio.jobs import Job, JobQueue
from smcd_jax.studio.model_options import checked_options, describe_model, form_options
from smcd_jax.studio.pictures import PictureStore
from smcd_jax.studio.results import Results


class Studio:
    """Models, pictures, results and the queue of one server.

    Attributes:
        pipelines: Pipelines by the name of the model.
        pictures: Pictures uploaded by clients.
        results: Output folder.
        queue: Queue of jobs.
    """

    def __init__(self, pipelines: Mapping[str, VideoPipeline], output: Path):
        """Opens the output folder.

        Raises:
            SMCDError: The folder cannot be used.
        """
        self.pipelines = dict(pipelines)
        self.results = Results(output)
        self.pictures = PictureStore()
        self.queue = JobQueue(self.pipelines, self.results)
        self._options = {name: form_options(pipeline) for name, pipeline in self.pipelines.items()}
        self._models = {name: describe_model(name, pipeline) for name, pipeline in self.pipelines.items()}

    def close(self) -> None:
        """Removes the uploaded pictures and lets another studio use the output folder."""
        self.pictures.close()
        self.results.close()

    def info(self) -> dict[str, Any]:
        """Returns version, limits and models."""
        limits = {"upload_bytes": UPLOAD_BYTES, "pixels": Image.MAX_IMAGE_PIXELS}
        return {"version": smcd_jax.__version__, "limits": limits, "models": list(self._models.values())}

    def model(self, name: str) -> dict[str, Any]:
        """Returns the description of a model.

        Raises:
            SMCDError: There is no such model.
        """
        if name not in self._models:
            message = f"no model {name!r:.60}; this studio has {', '.join(self._models)}"
            raise SMCDError(message, argument="model", value=name)
        return self._models[name]

    def request(self, settings: Mapping[str, Any]) -> Job:
        """Checks a request as the command line does, and appends it to the queue.

        Raises:
            SMCDError: An input or option is invalid, or the queue or the disk is full.
        """
        self.model(settings["model"])
        options = self._options[settings["model"]]
        chosen = checked_options(options, settings["options"])
        settings = {**settings, "options": chosen}
        pictures = {"image": self.pictures.get(settings["picture"]).path}
        for option in options:
            if option.type == "picture" and option.name in chosen:
                pictures[option.name] = self.pictures.get(chosen[option.name]).path
        self.queue.check_room()
        entry = self.results.create(settings, pictures)
        try:
            self.queue.check(entry)
        except BaseException:
            self.results.remove(entry.id)
            raise
        return self.queue.add(entry)

    def examples(self) -> list[dict[str, Any]]:
        """Returns the names and prompts of the examples that come with the package."""
        return [{"name": name, "prompt": _example(name)[1].get("prompt")} for name in EXAMPLES]

    def open_example(self, name: str) -> dict[str, Any]:
        """Adds the picture of an example to the store, and returns it with the tracks of the example.

        Raises:
            SMCDError: There is no such example.
        """
        if name not in EXAMPLES:
            raise SMCDError(f"no such example; use {', '.join(EXAMPLES)}", argument="name", value=name[:60])
        picture, tracks = _example(name)
        with picture.open("rb") as file:
            return {"picture": self.pictures.add(file, f"{name}.png").described(), "tracks": tracks}


def pipelines_by_name(models: Iterable[str]) -> dict[str, VideoPipeline]:
    """Opens model folders, and returns pipelines by folder name, with a number added to repeated names.

    Raises:
        SMCDError: There is no model folder at one of the paths.
    """
    found: dict[str, VideoPipeline] = {}
    for model in models:
        pipeline = VideoPipeline.from_pretrained(model, keep_loaded=True)
        name = first = pipeline.folder.path.name
        number = 2
        while name in found:
            name, number = f"{first}_{number}", number + 1
        found[name] = pipeline
    return found


def _example(name: str) -> tuple[Path, dict[str, Any]]:
    folder = Path(str(resources.files("smcd_jax") / "assets" / "examples" / name))
    return folder / "img.png", json.loads((folder / "tracks.json").read_text(encoding="utf-8"))
