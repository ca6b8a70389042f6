"""The studio's preview and interpolation in a browser, compared with Python, and their timings."""

import base64
import io
import json

import numpy as np
from PIL import Image

from smcd_jax.media import read_picture
from smcd_jax.media.cut_and_move import move_boxes, preview_picture
from smcd_jax.tracks import load_tracks
from smcd_jax.tracks.interpolation import INTERPOLATIONS, interpolate
from tests.studio.studio_page import LAMP_BOXES, ROCKET_BOXES


def test_interpolation_equals_that_of_python(studio):
    cases = []
    rng = np.random.default_rng(0)
    for kind in INTERPOLATIONS:
        for keys in (1, 2, 3, 6):
            key_times = np.sort(rng.choice(24, keys, replace=False)).astype(float)
            # Repeated values give flat segments, in which a monotone cubic has slope 0.
            values = np.round(rng.uniform(0, 500, (keys, 4)) / 100) * 100
            cases.append((key_times, values, np.linspace(-1, 25, 53), kind))
    found = studio.js(
        """async (cases) => {
            const { interpolate } = await import("/static/interpolation.js");
            return cases.map(([keys, values, times, kind]) =>
                times.map((time) => interpolate(keys, values, time, kind)));
        }""",
        [[part if isinstance(part, str) else part.tolist() for part in case] for case in cases],
    )
    for case, values in zip(cases, found, strict=True):
        np.testing.assert_allclose(values, interpolate(*case), atol=1e-9)


def test_preview_equals_that_of_python(studio, rocket, tmp_path):
    studio.open(rocket / "img.png")
    studio.draw_motion(ROCKET_BOXES, "rocket")
    studio.draw_motion(LAMP_BOXES, "lamp")
    studio.until("(studio.preview.update(), !studio.preview.layers.draft)")
    drawn = studio.js("""async () => {
        const { layers } = studio.preview;
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [layers.width, layers.height];
        const context = canvas.getContext("2d");
        return Array.from({ length: 8 }, (_, frame) => {
            studio.preview.draw(context, frame);
            return canvas.toDataURL("image/png").split(",")[1];
        });
    }""")
    (tmp_path / "tracks.json").write_text(
        json.dumps(studio.js("(async () => (await import('/static/tracks.js')).toTrackFile(studio.store.tracks))()"))
    )
    tracks = load_tracks(tmp_path / "tracks.json")
    picture = preview_picture(read_picture(rocket / "img.png"))
    expected = move_boxes(picture, tracks.boxes, tracks.mask)
    for content, frame in zip(drawn, expected, strict=True):
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
        # Chromium and Pillow resample differently at pixel edges.
        assert np.abs(found.astype(int) - frame).mean() < 0.5
    assert np.abs(expected[7].astype(int) - picture).mean() > 3


def test_first_preview_comes_at_once_and_frames_are_fast(studio, tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8)).resize((1024, 768))
    noise.save(tmp_path / "large.png")
    studio.open(tmp_path / "large.png")
    studio.draw((300, 300, 500, 500), "square")
    studio.page.keyboard.press("End")
    studio.js("""() => {
        const canvas = document.getElementById("picture");
        document.getElementById("sheet").addEventListener("pointerup", () => {
            const released = performance.now();
            const wait = () => {
                if (canvas.dataset.frame === "7") window.delay = performance.now() - released;
                else requestAnimationFrame(wait);
            };
            requestAnimationFrame(wait);
        });
    }""")
    studio.drag((400, 400), (700, 300))
    studio.until("window.delay !== undefined")
    assert studio.js("window.delay") < 100
    # All script work for a frame: state, boxes, timeline, and the preview on a canvas as large as the picture.
    # Reading a pixel forces the browser to finish drawing.
    times = studio.js("""() => {
        const { stage, store } = studio;
        [stage.canvas.width, stage.canvas.height] = [1024, 768];
        const frame = (index) => {
            store.show({ frame: 1 + (index % 7) });
            store.flush();
            stage.draw();
            stage.context.getImageData(1023, 767, 1, 1);
        };
        for (let index = 0; index < 14; index += 1) frame(index);
        return Array.from({ length: 70 }, (_, index) => {
            const start = performance.now();
            frame(index);
            return performance.now() - start;
        }).sort((a, b) => a - b);
    }""")
    assert times[len(times) // 2] < 8


def test_the_page_weighs_less_than_300_kilobytes(studio):
    sizes = studio.js("""async () => {
        const own = performance.getEntriesByType("resource").filter((item) => item.name.includes("/static/"));
        const page = await (await fetch("/")).text();
        return own.reduce((sum, item) => sum + item.decodedBodySize, page.length);
    }""")
    assert 50_000 < sizes < 300_000
    elsewhere = studio.js(
        "performance.getEntriesByType('resource').filter((item) => !item.name.startsWith(location.origin)).length"
    )
    assert elsewhere == 0
