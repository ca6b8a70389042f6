"""Helpers for studio tests: a studio with the shipped model, and requests to it."""

from __future__ import annotations

import json
import time
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from smcd_jax.studio.app import make_app
from smcd_jax.studio.guard import Access
from smcd_jax.studio.jobs import FINAL
from smcd_jax.studio.serve import make_access
from smcd_jax.studio.studio import Studio

SPRITE = Path(str(resources.files("smcd_jax") / "assets" / "examples" / "sprite"))
TRACKS = json.loads((SPRITE / "tracks.json").read_text())
ADDRESS = "http://127.0.0.1:7860"


def client_of(studio: Studio, access: Access | None = None, **options: Any) -> TestClient:
    """Returns a test client for the application, with the base URL of a real server."""
    app = make_app(studio, make_access("127.0.0.1") if access is None else access)
    return TestClient(app, base_url=ADDRESS, raise_server_exceptions=False, **options)


def send_picture(client: Any, content: bytes | None = None, name: str = "img.png") -> Any:
    """Sends a picture, by default the sprite example's."""
    content = (SPRITE / "img.png").read_bytes() if content is None else content
    return client.post("/api/pictures", files={"file": (name, content)})


def request_of(client: Any, **changes: Any) -> dict[str, Any]:
    """Returns a valid request whose picture has been sent."""
    request = {"model": "tiny", "picture": send_picture(client).json()["id"], "prompt": "a rocket moves up"}
    return request | {"tracks": TRACKS, "options": {"num_inference_steps": 2}} | changes


def finished(client: Any, job: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    """Waits until a job is in a final state and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = client.get(f"/api/jobs/{job['id']}").json()
        if job["state"] in FINAL:
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job is still {job['state']} after {seconds} s")
