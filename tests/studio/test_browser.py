"""The studio in a browser: from a dropped photograph to a video that the command line reproduces."""

import io
import json
import os
import subprocess
import sys
import urllib.request
import zipfile

import numpy as np
from PIL import Image

from smcd_jax.media import read_video
from smcd_jax.tracks import load_tracks
from tests.studio.studio_page import LAMP_BOXES, ROCKET_BOXES
from tests.xla_flags import xla_flags


def frames_of(url, entry, index=0):
    """Returns a result's frames, uint8 [f, h, w, 3], from its zip file."""
    with urllib.request.urlopen(url.rstrip("/") + entry["videos"][index]["frames"]) as answer:
        archive = zipfile.ZipFile(io.BytesIO(answer.read()))
    return np.stack([np.asarray(Image.open(archive.open(name)).convert("RGB")) for name in sorted(archive.namelist())])


def generate(studio, *, steps="3"):
    """Starts sampling a video in a few steps."""
    studio.set_option("num_inference_steps", steps)
    studio.page.click("#generate")


def test_two_objects_become_a_video_that_the_command_line_repeats(studio, url, output, rocket, tmp_path):
    studio.drop(rocket / "img.png", "image/png")
    studio.page.wait_for_selector("#sheet:not([hidden])")
    studio.draw_motion(ROCKET_BOXES, "rocket")
    studio.draw_motion(LAMP_BOXES, "lamp")
    assert [studio.keyframes(0), studio.keyframes(1)] == [[0, 3, 7], [0, 4, 7]]
    # The mouse moves in whole window pixels, each about one pixel of the picture.
    drawn = [keyframe["box"] for keyframe in studio.tracks["objects"][0]["keyframes"]]
    np.testing.assert_allclose(drawn, list(ROCKET_BOXES.values()), atol=2)

    studio.page.fill("#prompt", "a rocket lifts off beside a lamp")
    studio.js("""() => {
        window.stages = new Set();
        const note = () => stages.add(document.querySelector(".stage-name")?.textContent);
        new MutationObserver(note).observe(document.getElementById("jobs"), {
            subtree: true, childList: true, characterData: true });
    }""")
    generate(studio)
    studio.until("!document.getElementById('result').hidden", seconds=240)
    assert {"Loading the model", "Sampling"} <= set(studio.js("[...stages]"))
    studio.until("studio.player.video.readyState >= 2 && studio.player.video.currentTime > 0")
    assert studio.js("studio.player.video.videoWidth") == 32
    for _ in range(2):
        studio.page.click("#result-on")
    assert studio.js("studio.player.video.paused")
    studio.until("!studio.player.video.seeking")

    with studio.page.expect_download() as download:
        studio.page.click("#export")
    tracks = tmp_path / "tracks.json"
    download.value.save_as(tracks)
    command = ["animate", "--model", "tiny", "--image", str(rocket / "img.png"), "--tracks", str(tracks)]
    command += ["--num_inference_steps", "3", "--output", str(tmp_path / "again")]
    env = {**os.environ, "XLA_FLAGS": xla_flags()}
    subprocess.run([sys.executable, "-m", "smcd_jax", *command], check=True, env=env, capture_output=True)
    entry = studio.js("studio.player.entry")
    with urllib.request.urlopen(url.rstrip("/") + entry["videos"][0]["mp4"]) as answer:
        (tmp_path / "studio.mp4").write_bytes(answer.read())
    again, _ = read_video(tmp_path / "again.mp4")
    np.testing.assert_array_equal(read_video(tmp_path / "studio.mp4")[0], again)
    assert frames_of(url, entry).shape == again.shape

    studio.load()
    first = studio.page.locator("#history .entry-prompt").first
    first.wait_for()
    assert first.inner_text() == "a rocket lifts off beside a lamp"
    assert len(studio.tracks["objects"]) == 2  # the document survives a reload
    studio.page.locator("#history .entry-open").first.click()
    studio.page.wait_for_selector("#result:not([hidden])")
    studio.page.click("#result-reuse")
    studio.page.wait_for_selector("#editor:not([hidden])")
    assert studio.page.input_value("#option-num_inference_steps") == "3"
    assert [item["label"] for item in studio.tracks["objects"]] == ["rocket", "lamp"]


def test_a_cancelled_job_ends_and_leaves_no_result(studio, rocket):
    studio.page.wait_for_load_state("networkidle")
    before = studio.page.locator("#history .entry").count()
    studio.open(rocket / "img.png")
    studio.draw(ROCKET_BOXES[0], "rocket")
    studio.page.fill("#prompt", "a rocket")
    generate(studio, steps="1000")
    studio.page.locator("#jobs button").click()
    studio.until("document.getElementById('jobs').childElementCount === 0", seconds=120)
    assert studio.status() == "Cancelled"
    studio.load()
    studio.page.wait_for_load_state("networkidle")
    assert studio.page.locator("#history .entry").count() == before


def test_generate_says_what_is_missing(studio, rocket):
    def refusal():
        studio.page.click("#generate")
        return studio.page.inner_text("#form-error")

    said = [refusal()]
    studio.open(rocket / "img.png")
    said.append(refusal())
    studio.draw(ROCKET_BOXES[0], "rocket")
    said.append(refusal())
    assert studio.js("document.activeElement.id") == "prompt"
    assert all(said)
    assert len(set(said)) == 3


def test_exported_tracks_are_read_by_the_command_line(studio, rocket, tmp_path):
    studio.open(rocket / "img.png")
    studio.draw(ROCKET_BOXES[0], "rocket")
    studio.go_to(7)
    studio.drag((322, 260), (322, 150))
    studio.page.locator("#objects .visible").fill("0-3, 6")
    studio.page.keyboard.press("Tab")
    studio.page.locator("#objects .interpolation").select_option("smooth")
    with studio.page.expect_download() as download:
        studio.page.click("#export")
    download.value.save_as(tmp_path / "tracks.json")
    content = json.loads((tmp_path / "tracks.json").read_text())
    assert content["objects"][0]["visible"] == [[0, 3], [6, 6]]
    tracks = load_tracks(tmp_path / "tracks.json")
    shown = studio.js("(async () => (await import('/static/tracks.js')).boxesOverTime(studio.store.tracks))()")
    assert tracks.mask[:, 0].tolist() == [frame[0]["present"] for frame in shown]
    boxes = np.array([frame[0]["box"] for frame in shown])[tracks.mask[:, 0]]
    np.testing.assert_allclose(tracks.boxes[tracks.mask[:, 0], 0], boxes, atol=1e-6)
