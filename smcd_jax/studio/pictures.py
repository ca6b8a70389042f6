"""Uploaded pictures, stored as upright PNG files in a temporary folder, and their layers for previews."""

from __future__ import annotations

import dataclasses
import re
import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.media import read_picture
from smcd_jax.media.cut_and_move import Layers, cut_layers, preview_picture

_MOST_PICTURES = 100  # above this number, the least recently used pictures are removed
_MOST_BYTES = 2 * 2**30  # total size of all files
_MOST_LAYERS = 4  # limit per picture
_MOST_OBJECTS = 64
_UNSAFE = re.compile(r"[^\w.()+ -]")


@dataclasses.dataclass(eq=False)
class Picture:
    """A picture of the store.

    Attributes:
        id: Hexadecimal id.
        name: Name of the file as the client sent it, without folders.
        width: Width in pixels.
        height: Height in pixels.
        path: PNG file, rotated according to the EXIF orientation of the upload.
        layers: Folders of the layers by id, oldest first.
    """

    id: str
    name: str
    width: int
    height: int
    path: Path
    layers: OrderedDict[str, Path] = dataclasses.field(default_factory=OrderedDict)

    def described(self) -> dict[str, Any]:
        """Returns the description for clients."""
        return {"id": self.id, "width": self.width, "height": self.height, "name": self.name}


class PictureStore:
    """Uploaded pictures by id; thread-safe."""

    def __init__(self):
        self._folder = Path(tempfile.mkdtemp(prefix="smcd-studio-"))
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Lock()  # decodes one picture at a time, because 80 megapixels take a gigabyte

    def close(self) -> None:
        """Removes all files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, file: BinaryIO, name: str | None) -> Picture:
        """Reads a picture as the command line does, and stores it.

        Raises:
            SMCDError: The file is not a picture, is damaged, or has too many pixels.
        """
        name = client_name(name, "picture")
        upload = self._folder / f"{secrets.token_hex(8)}.upload"
        try:
            with upload.open("wb") as target:
                shutil.copyfileobj(file, target)
            with self._decoding:
                return self._keep(read_picture(upload), name)
        except SMCDError as error:
            raise SMCDError(str(error).replace(str(upload), name), argument="file", value=name) from error
        finally:
            upload.unlink(missing_ok=True)

    def get(self, picture_id: str) -> Picture:
        """Returns a picture.

        Raises:
            SMCDError: There is no picture with this id, or newer pictures have replaced it.
        """
        with self._lock:
            if picture_id not in self._pictures:
                raise SMCDError("no such picture; send it again", argument="picture", value=picture_id[:60])
            self._pictures.move_to_end(picture_id)
            return self._pictures[picture_id]

    def cut(self, picture_id: str, boxes: Sequence[Sequence[float]]) -> tuple[str, Layers]:
        """Splits a picture into layers (`smcd_jax.media.cut_and_move`), and stores them as PNG files.

        Args:
            picture_id: Id of the picture.
            boxes: First box of each object, xyxy in 0..1.

        Returns:
            Id of the layers, and the layers.

        Raises:
            SMCDError: There is no such picture, or a box has no area in it.
        """
        if len(boxes) > _MOST_OBJECTS:
            raise SMCDError(f"boxes must be at most {_MOST_OBJECTS}, got {len(boxes)}", argument="boxes")
        picture = self.get(picture_id)
        with self._decoding:
            layers = cut_layers(preview_picture(read_picture(picture.path)), np.array(boxes, float).reshape(-1, 4))
        layers_id = secrets.token_hex(8)
        folder = picture.path.with_name(f"{picture.id}-{layers_id}")
        folder.mkdir()
        _write_png(layers.background, folder / "background.png")
        for index, cutout in enumerate(layers.cutouts):
            _write_png(cutout.pixels, folder / f"{index}.png")
        with self._lock:
            picture.layers[layers_id] = folder
            while len(picture.layers) > _MOST_LAYERS:
                shutil.rmtree(picture.layers.popitem(last=False)[1], ignore_errors=True)
        return layers_id, layers

    def layer_file(self, picture_id: str, layers_id: str, index: int | None) -> Path:
        """Returns the PNG file of a cut-out, or that of the background if the index is None.

        Raises:
            SMCDError: There is no such file.
        """
        folder = self.get(picture_id).layers.get(layers_id)
        path = None if folder is None else folder / ("background.png" if index is None else f"{index}.png")
        if path is None or not path.is_file():
            raise SMCDError("no such layer; request the layers again", argument="layers")
        return path

    def _keep(self, pixels: UInt8[np.ndarray, "h w 3"], name: str) -> Picture:
        picture_id = secrets.token_hex(16)
        path = self._folder / f"{picture_id}.png"
        try:
            _write_png(pixels, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        picture = Picture(picture_id, name, pixels.shape[1], pixels.shape[0], path)
        with self._lock:
            self._pictures[picture_id] = picture
            total = sum(kept.path.stat().st_size for kept in self._pictures.values())
            while len(self._pictures) > 1 and (len(self._pictures) > _MOST_PICTURES or total > _MOST_BYTES):
                old = self._pictures.popitem(last=False)[1]
                total -= old.path.stat().st_size
                for file in (old.path, *old.layers.values()):
                    file.unlink() if file.is_file() else shutil.rmtree(file, ignore_errors=True)
        return picture


def client_name(name: str | None, default: str) -> str:
    """Returns a client's file name for use in messages, without folders and unusual characters."""
    last = re.split(r"[/\\]", name or "")[-1]
    return _UNSAFE.sub("_", last).strip(". ")[-80:] or default


def _write_png(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path, compress_level=1)
