"""The studio's page in headless Chromium, controlled in terms of picture pixels, frames and labels."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.xla_flags import xla_flags

# Boxes of two objects by keyframe, in pixels of the rocket's photograph (640 x 427).
ROCKET_BOXES = {0: (300, 125, 345, 405), 3: (300, 90, 345, 370), 7: (300, 10, 345, 290)}
LAMP_BOXES = {0: (60, 400, 110, 420), 4: (130, 380, 180, 400), 7: (200, 330, 250, 350)}

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser_path() -> str:
    """Returns the path of a Chromium browser; skips the test if there is none."""
    pytest.importorskip("fastapi")
    pytest.importorskip("playwright")
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip("needs a Chromium: apt-get install chromium")


@contextlib.contextmanager
def running_studio(output: Path, *flags: str) -> Iterator[str]:
    """Runs `smcd studio` on a free port and yields the address of its page."""
    command = [sys.executable, "-m", "smcd_jax", "studio", "--port", "0", "--no_browser", "--output", str(output)]
    # the tests' simulated devices would slow down the tiny model
    env = {**os.environ, "XLA_FLAGS": xla_flags(), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as run:
        try:
            yield _address(run)
        finally:
            run.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(20)
            run.kill()


def _address(run: subprocess.Popen) -> str:
    printed = ""
    for line in run.stdout:
        printed += line
        if match := re.search(r"http://[\w.:]+/?", line):
            _wait_for(match[0])
            return match[0]
    raise AssertionError(f"the studio did not start: {printed}")


def _wait_for(url: str) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


class StudioPage:
    """A browser tab with the studio's page.

    Attributes:
        page: Playwright's page.
        errors: Errors that the page's scripts raised.
    """

    def __init__(self, page: Any, url: str):
        self.page, self.url = page, url
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(15_000)
        self.load()

    def load(self) -> None:
        """Loads or reloads the page."""
        self.page.goto(self.url)
        self.page.wait_for_selector("body[data-ready]")

    def drop(self, file: Path, kind: str) -> None:
        """Drops a file on the page, like a file manager."""
        content = base64.b64encode(file.read_bytes()).decode()
        self.page.evaluate(
            """([content, name, type]) => {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                const files = new DataTransfer();
                files.items.add(new File([bytes], name, { type }));
                const drop = { dataTransfer: files, bubbles: true, cancelable: true };
                document.body.dispatchEvent(new DragEvent("drop", drop));
            }""",
            [content, file.name, kind],
        )

    def open(self, picture: Path) -> None:
        """Opens a picture with the file dialog and waits until it is shown."""
        before = self.js("studio.store.picture?.id ?? null")
        self.page.set_input_files("#picture-file", str(picture))
        self.until(f"(studio.store.picture?.id ?? null) !== {json.dumps(before)}")
        self.page.wait_for_selector("#sheet:not([hidden])")

    def js(self, expression: str, argument: Any = None) -> Any:
        """Returns the value of a JavaScript expression, or of a function called with `argument`."""
        return self.page.evaluate(expression, argument)

    def until(self, condition: str, *, seconds: float = 20) -> None:
        """Waits until an expression is true; Playwright's own wait would need a looser content security policy."""
        end = time.monotonic() + seconds
        while not self.js(condition):
            if time.monotonic() > end:
                raise AssertionError(f"not true within {seconds:g} s: {condition}; status: {self.status()}")
            time.sleep(0.02)

    @property
    def tracks(self) -> dict[str, Any]:
        """The editor's track document."""
        return self.js("studio.store.tracks")

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Returns window coordinates of a point given in picture pixels."""
        sheet = self.page.locator("#sheet").bounding_box()
        width = self.js("studio.store.picture.width")
        scale = sheet["width"] / width
        return sheet["x"] + x * scale, sheet["y"] + y * scale

    def drag(self, start: Sequence[float], end: Sequence[float]) -> None:
        """Drags with the mouse from one point of the picture to another."""
        (x, y), stop = self.point(*start), self.point(*end)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(*stop, steps=4)
        self.page.mouse.up()

    def draw(self, box: Sequence[float], label: str) -> None:
        """Draws a box and labels it."""
        self.drag(box[:2], box[2:])
        self.page.locator("#objects .selected .label").fill(label)
        self.page.keyboard.press("Enter")

    def draw_motion(self, boxes: Mapping[int, Sequence[float]], label: str) -> None:
        """Draws the box in frame 0 and drags it to its positions in later frames."""
        start, *later = boxes.items()
        self.go_to(0)
        self.draw(start[1], label)
        for frame, box in later:
            self.go_to(frame)
            shown = self.js(
                """async () => {
                    const { boxAt } = await import("/static/tracks.js");
                    return boxAt(studio.store.selected, studio.store.view.frame);
                }"""
            )
            self.drag(_middle(shown), _middle(box))

    def go_to(self, frame: int) -> None:
        """Shows a frame, using the timeline's slider."""
        self.page.locator("#scrub").focus()
        self.page.keyboard.press("Home")
        for _ in range(frame):
            self.page.keyboard.press("ArrowRight")

    def keyframes(self, index: int) -> list[int]:
        """Returns the frames in which an object has a keyframe."""
        return [keyframe["frame"] for keyframe in self.tracks["objects"][index]["keyframes"]]

    def status(self) -> str:
        """Returns the page's status line."""
        return self.page.inner_text("#status")

    def set_option(self, name: str, value: str) -> None:
        """Fills in the field of a sampling option."""
        self.page.fill(f"#option-{name}", value)


def _middle(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
