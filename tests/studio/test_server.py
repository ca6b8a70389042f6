"""The studio from request to files: the same frames as `smcd animate`, the history, and descriptions for clients."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from smcd_jax.cli import main
from smcd_jax.media import read_video
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.studio.studio import Studio
from tests.studio.support import SPRITE, TRACKS, client_of, finished, request_of, send_picture

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def pipeline():
    return VideoPipeline.from_pretrained("tiny", keep_loaded=True)


@pytest.fixture(scope="module")
def studio(pipeline, tmp_path_factory):
    studio = Studio({"tiny": pipeline}, tmp_path_factory.mktemp("studio"))
    studio.queue.start()
    yield studio
    studio.queue.close()
    assert studio.queue.wait_closed(60)
    studio.close()


@pytest.fixture(scope="module")
def client(studio):
    return client_of(studio)


@pytest.fixture(scope="module")
def made(client):
    """Returns a finished job with two videos."""
    request = request_of(client, num_videos=2, options={"num_inference_steps": 2, "seed": 5})
    answer = client.post("/api/jobs", json=request)
    assert answer.status_code == 202
    job = finished(client, answer.json())
    assert job["state"] == "done", job["error"]
    return job


class TestVideos:
    def test_frames_equal_those_of_the_command_line(self, client, made, tmp_path):
        entry = client.get(f"/api/history/{made['result']}").json()
        (tmp_path / "tracks.json").write_bytes(client.get(entry["tracks"]).content)
        flags = ["--prompt", "a rocket moves up", "--num_inference_steps", "2", "--seed", "5", "--quiet"]
        flags += ["--num_videos_per_prompt", "2", "--formats", "frames", "--output", str(tmp_path / "same")]
        image = str(SPRITE / "img.png")
        assert main(["animate", "--image", image, "--tracks", str(tmp_path / "tracks.json"), *flags]) == 0
        for index, video in enumerate(entry["videos"]):
            archive = zipfile.ZipFile(io.BytesIO(client.get(video["frames"]).content))
            expected, _ = read_video(tmp_path / f"same_{index}_frames")
            frames = np.stack([np.asarray(Image.open(archive.open(name))) for name in archive.namelist()])
            np.testing.assert_array_equal(frames, expected)

    def test_the_history_describes_each_video(self, client, made):
        (entry,) = [item for item in client.get("/api/history").json()["entries"] if item["id"] == made["result"]]
        assert [video["seed"] for video in entry["videos"]] == [5, 6]
        size = {name: entry["videos"][0][name] for name in ("num_frames", "fps", "width", "height")}
        assert size == {"num_frames": 8, "fps": 8, "width": 32, "height": 32}
        assert entry["settings"]["tracks"] == TRACKS
        for name in ("mp4", "gif", "boxes_mp4", "json"):
            assert client.get(entry["videos"][1][name]).content
        assert json.loads(client.get(entry["videos"][1]["json"]).content)["seed"] == 6

    def test_another_studio_on_the_folder_finds_the_history(self, studio, client, made, tmp_path):
        entries = client.get("/api/history").json()
        copied = shutil.copytree(studio.results.folder, tmp_path / "copy")
        again = Studio(studio.pipelines, copied)
        assert client_of(again).get("/api/history").json() == entries
        again.close()

    def test_events_end_with_the_final_state(self, client, made):
        with client.stream("GET", f"/api/jobs/{made['id']}/events") as answer:
            lines = list(answer.iter_lines())
        assert lines[0] == "event: job"
        assert json.loads(lines[1].removeprefix("data: "))["state"] == "done"

    def test_a_cancelled_job_leaves_no_files(self, studio, client):
        job = client.post("/api/jobs", json=request_of(client, options={"num_inference_steps": 500})).json()
        assert client.delete(f"/api/jobs/{job['id']}").status_code == 200
        assert finished(client, job)["state"] == "cancelled"
        assert not (studio.results.folder / job["id"]).exists()

    def test_a_deleted_entry_is_gone(self, studio, client):
        job = finished(client, client.post("/api/jobs", json=request_of(client, num_videos=2)).json())
        assert client.delete(f"/api/history/{job['result']}").status_code == 200
        assert client.get(f"/api/history/{job['result']}").status_code == 404
        assert not (studio.results.folder / job["id"]).exists()


class TestDescriptions:
    def test_options_of_a_model_come_with_types_and_common_ones_first(self, client):
        (model,) = client.get("/api/info").json()["models"]
        options = {option["name"]: option for option in model["options"]}
        assert options["num_inference_steps"] | {"help": ""} == {
            **{"name": "num_inference_steps", "type": "int", "default": 50, "minimum": 1, "maximum": None},
            **{"choices": None, "help": "", "common": True},
        }
        assert options["scheduler"]["choices"] == ["ddim", "euler", "dpmsolver++", "unipc"]
        common = [option["common"] for option in model["options"]]
        assert common == sorted(common, reverse=True)
        assert "end_image" not in options
        assert "loop" not in options

    def test_the_description_of_the_interface_lists_every_address(self, client):
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/api/info", "/api/pictures", "/api/jobs", "/api/history"} <= paths.keys()
        page = client.get("/docs").text
        assert all(path in page for path in paths)
        assert "http" not in page.replace("HTTP", "")  # the page refers to no external resource

    def test_layers_of_a_picture_compose_to_it(self, client):
        picture = send_picture(client).json()
        answer = client.post(f"/api/pictures/{picture['id']}/layers", json={"boxes": [[0.2, 0.2, 0.6, 0.6]]}).json()
        load = lambda url: np.asarray(Image.open(io.BytesIO(client.get(url).content)))  # noqa: E731
        frame, (cutout,) = load(answer["background"]).astype(float), answer["cutouts"]
        pixels = load(cutout["url"]).astype(float)
        rows = slice(cutout["y"], cutout["y"] + cutout["height"])
        columns = slice(cutout["x"], cutout["x"] + cutout["width"])
        opacity = pixels[..., 3:] / 255
        frame[rows, columns] = pixels[..., :3] * opacity + frame[rows, columns] * (1 - opacity)
        np.testing.assert_allclose(frame, load(f"/api/pictures/{picture['id']}"), atol=1)

    def test_a_mot_file_becomes_tracks_with_the_notes_of_the_reader(self, client):
        rows = "1,1,11,21,40,50,1,1,1\n2,1,21,21,40,50,1,1,1\n"
        fields = {"picture_width": 200, "picture_height": 100, "num_frames": 8}
        answer = client.post("/api/tracks/import", files={"file": ("gt.txt", rows)}, data=fields).json()
        assert answer["tracks"]["frames"] == 8
        assert answer["tracks"]["size"] == [200, 100]
        keyframes = answer["tracks"]["objects"][0]["keyframes"]
        assert keyframes[0]["box"] == [10, 20, 50, 70]
        assert keyframes[-1]["box"] == [20, 20, 60, 70]
        assert answer["warnings"]

    def test_a_track_file_keeps_its_keyframes(self, client):
        fields = {"picture_width": 10, "picture_height": 10, "num_frames": 3}
        answer = client.post("/api/tracks/import", files={"file": ("t.json", json.dumps(TRACKS))}, data=fields)
        assert answer.json()["tracks"] == TRACKS

    def test_warnings_name_object_and_frame(self, client):
        keyframes = [{"frame": 0, "box": [0, 0, 5, 5]}, {"frame": 7, "box": [80, 0, 120, 40]}]
        item = {"label": "a", "keyframes": keyframes}
        document = {"format": "smcd-tracks", "version": 1, "frames": 8, "size": [100, 100], "objects": [item] * 5}
        warnings = client.post("/api/tracks/check", json={"tracks": document, "model": "tiny"}).json()["warnings"]
        assert [(item["object"], item["frame"]) for item in warnings[:2]] == [(0, 6), (0, 0)]
        assert warnings[-1]["object"] is None  # warns of five objects, one more than the model accepts

    def test_an_example_is_opened_as_if_sent(self, client):
        names = {item["name"] for item in client.get("/api/examples").json()["examples"]}
        assert names == {"crossing", "rocket", "sprite", "winds"}
        answer = client.post("/api/examples/sprite").json()
        assert answer["tracks"] == TRACKS
        assert client.get(f"/api/pictures/{answer['picture']['id']}").status_code == 200


def test_the_studio_imports_neither_torch_nor_tensorflow():
    program = "import sys, smcd_jax.studio.serve; print({'torch', 'tensorflow', 'data_pipeline'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
