"""Routes of the HTTP API and the page; docs/studio.md describes them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import tempfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

import smcd_jax
from smcd_jax.errors import SMCDError
from smcd_jax.studio.api_page import api_page
from smcd_jax.studio.guard import Access, Guard
from smcd_jax.studio.jobs import FINAL, QueueFullError
from smcd_jax.studio.studio import Studio
from smcd_jax.studio.track_files import import_tracks, track_warnings
from smcd_jax.tracks.track_file import MAX_FRAMES

STATIC = Path(__file__).with_name("static")
_POLL_SECONDS, _KEEP_ALIVE_SECONDS = 0.05, 15.0
_LARGEST_SIDE = 100_000  # largest side in pixels of the picture that tracks refer to


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError("numbers must be finite, and texts valid Unicode") from error
        return value


class LayersRequest(_Body):
    """First box of each object, x1, y1, x2, y2 in 0..1 of the picture."""

    boxes: list[Annotated[list[Annotated[float, Field(strict=False)]], Field(min_length=4, max_length=4)]]


class TracksRequest(_Body):
    """Content of a tracks.json, and the name of a model."""

    tracks: dict[str, Any]
    model: str


class JobRequest(_Body):
    """A video: model, id of the picture, texts, content of a tracks.json, options by name, and number of videos."""

    model: str
    picture: str
    prompt: str | None = None
    negative_prompt: str | None = None
    tracks: dict[str, Any] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    num_videos: int = Field(default=1, ge=1, le=8)


def make_app(studio: Studio, access: Access) -> FastAPI:
    """Returns the application of a studio; its middleware rejects requests that ``access`` does not allow."""
    title = "smcd studio"
    app = FastAPI(title=title, version=smcd_jax.__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.add_middleware(Guard, access=access)
    _add_error_handlers(app)
    _add_picture_routes(app, studio)
    _add_track_routes(app, studio)
    _add_job_routes(app, studio)
    _add_history_routes(app, studio)

    @app.get("/api/info", summary="Version, limits, and the models with their options")
    def info() -> dict[str, Any]:
        return studio.info()

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()))

    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")
    return app


def _add_picture_routes(app: FastAPI, studio: Studio) -> None:
    @app.post("/api/pictures", summary="Send a picture, as the field 'file' of a form")
    def add_picture(file: UploadFile) -> dict[str, Any]:
        return studio.pictures.add(file.file, file.filename).described()

    @app.get("/api/pictures/{picture_id}", summary="The picture, turned upright, as PNG", response_class=FileResponse)
    def picture(picture_id: str) -> FileResponse:
        return FileResponse(studio.pictures.get(picture_id).path, media_type="image/png")

    @app.post("/api/pictures/{picture_id}/layers", summary="Filled background and cut-outs for a preview")
    def layers(picture_id: str, body: LayersRequest) -> dict[str, Any]:
        layers_id, cut = studio.pictures.cut(picture_id, body.boxes)
        base = f"/api/pictures/{picture_id}/layers/{layers_id}"
        cutouts = [
            {
                "url": f"{base}/{index}",
                "x": item.x,
                "y": item.y,
                "width": item.pixels.shape[1],
                "height": item.pixels.shape[0],
            }
            for index, item in enumerate(cut.cutouts)
        ]
        height, width, _ = cut.background.shape
        return {"background": f"{base}/background", "width": width, "height": height, "cutouts": cutouts}

    @app.get("/api/pictures/{picture_id}/layers/{layers_id}/background", response_class=FileResponse)
    def background(picture_id: str, layers_id: str) -> FileResponse:
        return FileResponse(studio.pictures.layer_file(picture_id, layers_id, None), media_type="image/png")

    @app.get("/api/pictures/{picture_id}/layers/{layers_id}/{index}", response_class=FileResponse)
    def cutout(picture_id: str, layers_id: str, index: int) -> FileResponse:
        return FileResponse(studio.pictures.layer_file(picture_id, layers_id, index), media_type="image/png")

    @app.get("/api/examples", summary="Examples that come with the package")
    def examples() -> dict[str, Any]:
        return {"examples": studio.examples()}

    @app.post("/api/examples/{name}", summary="Use the picture and the tracks of an example")
    def open_example(name: str) -> dict[str, Any]:
        return studio.open_example(name)


def _add_track_routes(app: FastAPI, studio: Studio) -> None:
    @app.post("/api/tracks/import", summary="Convert a track file of any known format to a tracks.json")
    def add_tracks(
        file: UploadFile,
        picture_width: Annotated[int, Form(ge=1, le=_LARGEST_SIDE)],
        picture_height: Annotated[int, Form(ge=1, le=_LARGEST_SIDE)],
        num_frames: Annotated[int, Form(ge=1, le=MAX_FRAMES)],
    ) -> dict[str, Any]:
        size = (picture_width, picture_height)
        tracks, warnings = import_tracks(file.file, file.filename, picture_size=size, frames=num_frames)
        return {"tracks": tracks, "warnings": list(warnings)}

    @app.post("/api/tracks/check", summary="Warnings about tracks for a model")
    def check_tracks(body: TracksRequest) -> dict[str, Any]:
        return {"warnings": track_warnings(body.tracks, studio.model(body.model))}


def _add_job_routes(app: FastAPI, studio: Studio) -> None:
    queue = studio.queue

    @app.post("/api/jobs", status_code=202, summary="Request videos")
    def add_job(body: JobRequest) -> dict[str, Any]:
        return queue.described(studio.request(body.model_dump()))

    @app.get("/api/jobs", summary="All jobs since the start of the server, oldest first")
    def jobs() -> dict[str, Any]:
        return {"jobs": queue.all_described()}

    @app.get("/api/jobs/{job_id}", summary="State of a job")
    def job(job_id: str) -> dict[str, Any]:
        return queue.described(queue.get(job_id))

    @app.delete("/api/jobs/{job_id}", summary="Cancel a job")
    def cancel(job_id: str) -> dict[str, Any]:
        found = queue.get(job_id)
        queue.cancel(found)
        return queue.described(found)

    @app.get("/api/jobs/{job_id}/events", summary="Server-sent events 'job' at each change, until a final state")
    async def events(job_id: str) -> StreamingResponse:
        found = queue.get(job_id)

        async def stream() -> AsyncIterator[str]:
            sent, idle = None, 0.0
            while not queue.closing:
                content = queue.described(found)
                if content != sent:
                    sent, idle = content, 0.0
                    yield f"event: job\ndata: {json.dumps(content)}\n\n"
                if content["state"] in FINAL:
                    return
                version = (found.version, content["position"])
                while version[0] == found.version and idle < _KEEP_ALIVE_SECONDS and not queue.closing:
                    await asyncio.sleep(_POLL_SECONDS)
                    idle += _POLL_SECONDS
                    if version[1] and round(idle / _POLL_SECONDS) % 20 == 0:
                        break  # the position in the queue may have changed without a new version
                if idle >= _KEEP_ALIVE_SECONDS:
                    idle = 0.0
                    yield ": still here\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")


def _add_history_routes(app: FastAPI, studio: Studio) -> None:
    results = studio.results

    @app.get("/api/history", summary="Finished videos of the output folder, newest first")
    def history() -> dict[str, Any]:
        return {"entries": results.history()}

    @app.get("/api/history/{entry_id}", summary="One entry of the history")
    def entry(entry_id: str) -> dict[str, Any]:
        return results.described(entry_id)

    @app.delete("/api/history/{entry_id}", summary="Delete an entry and its files")
    def delete(entry_id: str) -> dict[str, Any]:
        described = results.described(entry_id)
        if studio.queue.is_active(entry_id):
            raise SMCDError("this video is being made; cancel the job first", argument="id", value=entry_id)
        results.remove(entry_id)
        return described

    @app.get("/api/history/{entry_id}/files/{name}", summary="A file of an entry", response_class=FileResponse)
    def file(entry_id: str, name: str) -> FileResponse:
        results.described(entry_id)
        path = results.entry(entry_id).listed_files().get(name)
        if path is None:
            raise HTTPException(404, "the entry has no file of this name; use the names that it lists")
        if not path.is_dir():
            return FileResponse(path)
        archive = _zipped(path)
        return FileResponse(archive, filename=name, background=BackgroundTask(os.unlink, archive))


def _zipped(folder: Path) -> str:
    """Returns a temporary zip file of the pictures in a folder."""
    with tempfile.NamedTemporaryFile(prefix="smcd-studio-", suffix=".zip", delete=False) as target:
        try:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
                for picture in sorted(folder.iterdir()):
                    archive.write(picture, f"{folder.name}/{picture.name}")
        except BaseException:
            os.unlink(target.name)
            raise
    return target.name


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(SMCDError)
    def user_error(request: Request, error: SMCDError) -> JSONResponse:
        missing = error.argument in ("id", "picture", "layers", "name") and request.method != "POST"
        status = 429 if isinstance(error, QueueFullError) else 404 if missing else 422
        return _answer(status, str(error).splitlines()[0], error.argument)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        names = [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
        place = ".".join(names)[:80]
        return _answer(422, f"{place or 'the request'}: {first['msg'].lower()}; see /docs", place or None)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        known = {
            "Not Found": "no such address; see /docs",
            "Method Not Allowed": f"no {request.method} here; see /docs",
        }
        return _answer(error.status_code, known.get(error.detail, error.detail), None)

    @app.exception_handler(OSError)
    def disk(request: Request, error: OSError) -> JSONResponse:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = (error.strerror or str(error)).lower()
        return _answer(507 if full else 500, f"{reason}; {'free some space' if full else 'try again'}", None)

    @app.exception_handler(MemoryError)
    def memory(request: Request, error: MemoryError) -> JSONResponse:
        return _answer(507, "out of memory on this machine; send a smaller picture", None)

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        return _answer(500, f"internal error ({type(error).__name__}); report it with the log of the server", None)


def _answer(status: int, message: str, argument: str | None) -> JSONResponse:
    with contextlib.suppress(UnicodeEncodeError):
        message.encode()
        return JSONResponse({"error": message, "argument": argument}, status)
    return JSONResponse({"error": message.encode("utf-8", "replace").decode(), "argument": None}, status)
