"""Makes the pictures in docs/studio.md and README.md from a running studio: `python -m tests.studio.pictures`."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.studio.studio_page import StudioPage, browser_path, running_studio

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"
ROCKET = {0: (299, 128, 347, 408), 4: (299, 85, 347, 365), 7: (299, 12, 347, 292)}
OPTIONS = {"num_inference_steps": "25", "guidance_scale": "2", "box_guidance_scale": "2", "seed": "7"}
LIGHT = {0: (118, 345, 186, 409), 7: (222, 338, 290, 402)}


def save(page, name: str) -> None:
    """Saves a screenshot of the window as WebP."""
    FOLDER.mkdir(exist_ok=True)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(FOLDER / f"{name}.webp", quality=88, method=6)


def main() -> None:
    """Saves pictures of the editor, with two objects on the shipped photograph, and of a result with the sprite."""
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as output,
        running_studio(Path(output), "--model", "tiny") as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
        studio = StudioPage(context.new_page(), url)
        studio.open(ROOT / "smcd_jax" / "assets" / "examples" / "rocket" / "img.png")
        studio.draw_motion(LIGHT, "light")
        studio.draw_motion(ROCKET, "rocket")
        studio.page.fill("#prompt", "a rocket lifts off while a light moves to the right")
        studio.go_to(5)
        studio.js("document.activeElement.blur()")
        studio.until("studio.preview.layers && !studio.preview.layers.draft")
        studio.page.wait_for_timeout(400)
        save(studio.page, "studio_editor")

        # The result is of a sprite, because the shipped model cannot draw photographs.
        studio.js("sessionStorage.clear()")
        studio.load()
        studio.page.get_by_text("Try the sprite").click()
        studio.page.wait_for_selector("#sheet:not([hidden])")
        for name, value in OPTIONS.items():
            studio.set_option(name, value)
        studio.page.click("#generate")
        studio.until("!document.getElementById('result').hidden", seconds=300)
        studio.page.click("#result-show-compare")
        studio.until("studio.player.layers?.ready && !studio.player.layers.layers.draft")
        studio.js("studio.player.pause(), studio.player.seek(5)")
        studio.page.wait_for_timeout(500)
        save(studio.page, "studio_result")
        browser.close()


if __name__ == "__main__":
    main()
