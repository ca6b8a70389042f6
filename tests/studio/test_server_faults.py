"""Invalid and hostile requests to the studio: replies are one-line errors with a status; the server stays usable."""

from __future__ import annotations

import asyncio
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.studio import jobs
from smcd_jax.studio.guard import UPLOAD_BYTES, Guard
from smcd_jax.studio.serve import make_access, page_address
from smcd_jax.studio.studio import Studio
from tests.studio.fake_clip import FakeClip
from tests.studio.support import SPRITE, client_of, finished, request_of, send_picture


@pytest.fixture(scope="module")
def pipelines():
    return {"tiny": VideoPipeline.from_pretrained("tiny")}


@pytest.fixture
def fake(monkeypatch):
    fake = FakeClip()
    monkeypatch.setattr(jobs, "make_clip", fake)
    return fake


@pytest.fixture
def studio(pipelines, fake, tmp_path):
    studio = Studio(pipelines, tmp_path / "out")
    studio.queue.start()
    yield studio
    fake.gate.set()
    studio.queue.close()
    assert studio.queue.wait_closed(60)
    studio.close()


@pytest.fixture
def client(studio):
    return client_of(studio)


def refused(answer, status: int, argument: str | None = None) -> str:
    """Returns the error message of a rejected request."""
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert content.keys() == {"error", "argument"}
    assert "\n" not in content["error"]
    if argument is not None:
        assert content["argument"] == argument
    return content["error"]


def in_own_loop(coroutine):
    """Runs a coroutine in another thread, because another test's browser may occupy this thread's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class TestUploads:
    @pytest.mark.parametrize("declared", [True, False])
    def test_300_megabytes_are_refused_early(self, declared):
        taken, sent = [], []

        async def reads_everything(scope, receive, send):
            while (await receive()).get("more_body"):
                pass

        async def receive():
            taken.append(2**20)
            return {"type": "http.request", "body": bytes(2**20), "more_body": len(taken) < 300}

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"127.0.0.1:7860")] + [(b"content-length", b"314572800")] * declared
        scope = {"type": "http", "method": "POST", "path": "/api/pictures", "query_string": b"", "headers": headers}
        guard = Guard(reads_everything, make_access("127.0.0.1"))
        if declared:
            in_own_loop(guard(scope, receive, send))
            assert sent[0]["status"] == 413
            assert not taken
        else:
            with pytest.raises(Exception) as caught:
                in_own_loop(guard(scope, receive, send))
            assert caught.value.status_code == 413
            assert sum(taken) <= UPLOAD_BYTES + 2 * 2**20

    def test_a_file_above_the_limit_is_refused_and_the_next_one_is_read(self, client):
        refused(client.post("/api/pictures", files={"file": ("a.png", bytes(UPLOAD_BYTES + 2**20))}), 413)
        assert send_picture(client).status_code == 200

    def test_text_is_no_picture(self, client):
        assert "notes.png" in refused(send_picture(client, b"not a picture", "notes.png"), 422, "file")

    def test_400_megapixels_are_refused(self, client):
        file = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(file, "PNG")
        assert len(file.getvalue()) < 2**20
        refused(send_picture(client, file.getvalue()), 422, "file")

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", (SPRITE / "img.png").read_bytes()[:900]])
    def test_a_damaged_picture_is_refused(self, client, content):
        refused(send_picture(client, content), 422, "file")

    def test_a_picture_is_turned_as_its_exif_says(self, client):
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (30, 20)).save(file, "JPEG", exif=exif)
        picture = send_picture(client, file.getvalue()).json()
        assert (picture["width"], picture["height"]) == (20, 30)

    def test_a_missing_file_names_the_field(self, client):
        refused(client.post("/api/pictures"), 422, "file")
        refused(client.post("/api/tracks/import", files={"file": ("t.json", "{}")}), 422, "picture_width")


PLACES = [
    "..",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2fsettings.json",
    "/etc/passwd",
    "a" * 4000,
    "%00",
]


class TestNames:
    @pytest.mark.parametrize("name", PLACES)
    def test_no_address_becomes_a_path(self, client, name):
        job = finished(client, client.post("/api/jobs", json=request_of(client)).json())
        base = f"/api/history/{job['id']}"
        for address in (
            *(f"/api/pictures/{name}", f"/api/pictures/{name}/layers/{name}/background", f"/api/history/{name}"),
            *(f"{base}/files/{name}", f"/api/jobs/{name}", f"/static/{name}"),
        ):
            answer = client.get(address)
            assert answer.status_code in (400, 404, 405) or b"root:" not in answer.content, address
            assert b"root:" not in answer.content

    def test_only_listed_files_of_an_entry_are_served(self, client, studio):
        job = finished(client, client.post("/api/jobs", json=request_of(client)).json())
        (studio.results.folder / job["id"] / "secret.txt").write_text("x")
        for name in ("secret.txt", "settings.json", "video_frames", "."):
            refused(client.get(f"/api/history/{job['id']}/files/{name}"), 404)

    @pytest.mark.parametrize("name", [*PLACES[:3], "C:\\x\\y.png", ".hidden", "", "‮gnp.png"])
    def test_the_name_of_an_upload_is_only_shown(self, client, studio, name):
        picture = send_picture(client, name=name or " ").json()
        assert not set("/\\\0") & set(picture["name"])
        fields = {"picture_width": 10, "picture_height": 10, "num_frames": 2}
        refused(client.post("/api/tracks/import", files={"file": (name or " ", b"x")}, data=fields), 422, "file")
        assert sorted(item.name for item in studio.results.folder.iterdir()) == [".studio.lock"]


class TestHostAndOrigin:
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:7860", "", "127.0.0.1.evil.example", "[::1", "192.168.0.1"]
    )
    def test_another_host_is_refused(self, client, host):
        refused(client.get("/api/info", headers={"host": host}), 403)

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost:7860", "x"]
    )
    def test_another_origin_is_refused(self, client, studio, origin):
        request = request_of(client)
        refused(client.post("/api/jobs", json=request, headers={"origin": origin}), 403)
        refused(client.delete("/api/history/0", headers={"origin": origin}), 403)
        assert client.get("/api/jobs").json()["jobs"] == []

    @pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"])
    def test_the_own_host_and_origin_are_accepted(self, client, host):
        headers = {"host": host, "origin": f"http://{host}"}
        assert client.get("/api/info", headers=headers).status_code == 200

    def test_another_address_needs_the_token(self, studio):
        access = make_access("0.0.0.0")
        client = client_of(studio, access, follow_redirects=False)
        refused(client.get("/api/info"), 401)
        refused(client.get("/api/info", headers={"authorization": "Bearer wrong"}), 401)
        refused(client.get("/?token=wrong"), 401)
        assert client.get("/api/info", headers={"authorization": f"Bearer {access.token}"}).status_code == 200
        assert client.get(f"/api/info?token={access.token}", headers={"host": "192.168.0.7:7860"}).status_code == 200
        refused(client.get(f"/api/info?token={access.token}", headers={"host": "evil.example"}), 403)
        answer = client.get(f"/?token={access.token}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert {"httponly", "samesite=strict"} <= {
            part.strip().lower() for part in answer.headers["set-cookie"].split(";")
        }
        assert client.get("/api/info").status_code == 200  # the cookie authorizes the request
        assert page_address("192.168.0.7", 80, access).endswith(f":80/?token={access.token}")


class TestRequests:
    @pytest.mark.parametrize(
        ("changes", "argument"),
        [
            ({"model": "other"}, "model"),
            ({"picture": "0" * 32}, "picture"),
            ({"prompt": 3}, "prompt"),
            ({"tracks": None}, "tracks"),
            ({"tracks": {"format": "smcd-tracks"}}, None),
            ({"num_videos": 9}, "num_videos"),
            ({"num_videos": True}, "num_videos"),
            ({"options": {"nope": 1}}, "nope"),
            ({"options": {"seed": "5"}}, "seed"),
            ({"options": {"seed": -1}}, "seed"),
            ({"options": {"seed": 2**70}}, "seed"),
            ({"options": {"num_inference_steps": 0}}, "num_inference_steps"),
            ({"options": {"num_inference_steps": 1.5}}, "num_inference_steps"),
            ({"options": {"scheduler": ["ddim"]}}, "scheduler"),
            ({"options": {"guidance_scale": "high"}}, "guidance_scale"),
            ({"options": {"height": 33}}, "height"),
            ({"options": {"num_frames": 10**9}}, "num_frames"),
            ({"options": {"fps": 60}}, "fps"),
            ({"options": {"end_image": "x"}}, "end_image"),
            ({"surprise": 1}, "surprise"),
        ],
    )
    def test_wrong_values_name_the_argument_and_leave_no_files(self, client, studio, changes, argument):
        refused(client.post("/api/jobs", json=request_of(client, **changes)), 422, argument)
        assert sorted(item.name for item in studio.results.folder.iterdir()) == [".studio.lock"]

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"a": NaN}', b"\xff", b"[" * 100_000])
    def test_a_body_that_is_no_request_is_refused(self, client, body):
        headers = {"content-type": "application/json"}
        for address in ("/api/jobs", "/api/tracks/check", "/api/pictures/0/layers"):
            assert client.post(address, content=body, headers=headers).status_code in (400, 422)
        assert client.get("/api/info").status_code == 200

    @pytest.mark.parametrize(
        "boxes", [[[0, 0, 1]], [["a", 0, 1, 1]], [[0.5, 0, 0.5, 1]], [[2, 2, 3, 3]], [[0, 0, 1, 1]] * 65, 3]
    )
    def test_wrong_boxes_are_refused(self, client, boxes):
        picture = send_picture(client).json()
        refused(client.post(f"/api/pictures/{picture['id']}/layers", json={"boxes": boxes}), 422)

    @pytest.mark.parametrize("changes", [{"options": {"guidance_scale": float("nan")}}, {"prompt": "\ud800"}])
    def test_numbers_and_texts_that_json_cannot_hold_are_refused(self, client, changes):
        body = json.dumps(request_of(client, **changes))
        answer = client.post("/api/jobs", content=body, headers={"content-type": "application/json"})
        refused(answer, 422)


class TestQueue:
    def test_two_users_get_their_own_videos(self, client, studio):
        clients = {name: client_of(studio) for name in ("ann", "bob")}

        def use(name):
            own = clients[name]
            made = [own.post("/api/jobs", json=request_of(own, prompt=f"{name} {index}")).json() for index in range(4)]
            return [finished(own, job) for job in made]

        with ThreadPoolExecutor(2) as pool:
            found = [job for jobs in pool.map(use, clients) for job in jobs]
        assert {job["state"] for job in found} == {"done"}
        assert len({job["result"] for job in found}) == 8
        prompts = {entry["id"]: entry["settings"]["prompt"] for entry in client.get("/api/history").json()["entries"]}
        assert all(prompts[job["result"]] == job["settings"]["prompt"] for job in found)

    def test_positions_count_the_jobs_before(self, client, fake):
        fake.gate.clear()
        made = [client.post("/api/jobs", json=request_of(client)).json() for _ in range(3)]
        states = {job["id"]: job for job in client.get("/api/jobs").json()["jobs"]}
        assert [states[job["id"]]["position"] for job in made[1:]] == [1, 2]
        assert client.delete(f"/api/jobs/{made[1]['id']}").json()["state"] == "cancelled"
        fake.gate.set()
        assert [finished(client, job)["state"] for job in made] == ["done", "cancelled", "done"]

    @pytest.mark.parametrize(
        "error", [SMCDError("out of memory"), MemoryError(), OSError(28, "No space left"), RuntimeError("\n")]
    )
    def test_a_failed_job_says_one_line_and_the_next_one_works(self, client, studio, fake, monkeypatch, error):
        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr(jobs, "make_clip", fail)
        job = finished(client, client.post("/api/jobs", json=request_of(client)).json())
        assert job["state"] == "failed"
        assert job["error"]
        assert "\n" not in job["error"]
        assert not (studio.results.folder / job["id"]).exists()
        monkeypatch.setattr(jobs, "make_clip", fake)
        assert finished(client, client.post("/api/jobs", json=request_of(client)).json())["state"] == "done"

    def test_a_full_queue_is_refused(self, client, monkeypatch):
        monkeypatch.setattr(jobs, "MOST_WAITING", 0)
        refused(client.post("/api/jobs", json=request_of(client)), 429)

    def test_a_folder_in_use_is_refused(self, studio, pipelines):
        with pytest.raises(SMCDError) as caught:
            Studio(pipelines, studio.results.folder)
        assert caught.value.argument == "output"

    @pytest.mark.parametrize("seconds", [1, pytest.param(10, marks=pytest.mark.slow)])
    def test_50_requests_a_second_lose_no_job_and_no_memory(self, client, studio, seconds):
        request = request_of(client)
        sizes, made = [], []
        for _ in range(seconds):
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: client.post("/api/jobs", json=request), range(50)))
            assert {answer.status_code for answer in answers} == {202}
            made += [answer.json() for answer in answers]
            assert [finished(client, job)["state"] for job in made[-50:]] == ["done"] * 50
            sizes.append(_resident_bytes())
        assert len({job["id"] for job in made}) == 50 * seconds
        assert len(client.get("/api/history").json()["entries"]) == 50 * seconds
        assert sizes[-1] - sizes[0] < 100 * 2**20


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def test_one_model_is_in_memory_at_a_time(fake, tmp_path):
    tiny, other = (VideoPipeline.from_pretrained("tiny") for _ in range(2))
    studio = Studio({"tiny": tiny, "other": other}, tmp_path / "out")
    studio.queue.start()
    client = client_of(studio)
    tiny.components.params("position_net")
    for model, kept in (("tiny", ("position_net",)), ("other", ())):
        answer = client.post("/api/jobs", json=request_of(client, model=model))
        assert finished(client, answer.json())["state"] == "done"
        assert tiny.components.loaded == kept
    studio.queue.close()
    assert studio.queue.wait_closed(60)
    studio.close()
