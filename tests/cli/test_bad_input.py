"""What a user can get wrong about `smcd animate`: one line that says what to do, status 2, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from smcd_jax.cli import main

ASSETS = Path(str(resources.files("smcd_jax") / "assets"))
PICTURE = str(ASSETS / "examples" / "rocket" / "img.png")
TRACKS = ASSETS / "examples" / "rocket" / "tracks.json"
TRACK = "rocket: 300,125,345,405 -> 300,10,345,290"

# (what differs from a good command, words of the line); None takes the flag away
OPTIONS = [
    ({"--image": "nope.png"}, "nope.png: no such file"),
    ({"--image": str(TRACKS)}, "not a supported picture"),
    ({"--image": "."}, ".: a folder, not a picture"),
    ({"--image": "cut.png"}, "cut.png: damaged or truncated"),
    ({"--image": ""}, "image is empty"),
    ({"--image": None}, "no picture: give one with --image"),
    ({"--prompt": ""}, "the prompt is empty"),
    ({"--prompt": " \t"}, "the prompt is empty"),
    ({"--prompt": None}, "no prompt: say in a few words"),
    ({"--prompt": "word " * 500}, "the prompt is too long: 502 tokens, and the model reads 77"),
    ({"--prompt": "a\udcffb"}, "is not text in UTF-8"),
    ({"--negative_prompt": "word " * 500}, "the negative_prompt is too long"),
    ({"--track": "rocket: 900,125,945,405"}, "lies entirely outside the picture of 640 x 427"),
    ({"--track": "rocket: 345,125,300,405"}, "x2 300 <= x1 345"),
    ({"--track": "rocket: 1,9,2,9"}, "y2 9 <= y1 9"),
    ({"--track": "rocket: nan,125,345,405"}, "'nan' is not a finite number"),
    ({"--track": "rocket: 1,2,3"}, "is not four numbers"),
    ({"--track": "1,2,3,4"}, "has no label"),
    ({"--track": None}, "no boxes: give --tracks FILE, or --track"),
    ({"--track": "dog " * 100 + ": 1,2,3,4"}, "the label is too long"),
    ({"--tracks": "nope.json"}, "nope.json: cannot read: No such file"),
    ({"--tracks": PICTURE}, "img.png: not UTF-8 text"),
    ({"--tracks": str(TRACKS), "--tracks_format": "mot"}, "tracks.json: line 1: 1 comma-separated fields"),
    ({"--label": "x"}, "--label names the object of a tracks file"),
    ({"--height": "63"}, "height is 63; it must be a multiple of 8 for this model, such as 64"),
    ({"--width": "0"}, "width is 0; it must be a multiple of 8"),
    ({"--height": "10000000000"}, "more than fit in memory"),
    ({"--num_frames": "0"}, "the number of frames must be a positive whole number, got 0"),
    ({"--num_frames": "99999999"}, "more than fit in memory"),
    ({"--num_inference_steps": "0"}, "0 steps, use a whole number from 1 to 1000"),
    ({"--num_inference_steps": "1001"}, "1001 steps"),
    ({"--num_inference_steps": "2.5"}, "invalid int value: '2.5'"),
    ({"--guidance_scale": "nan"}, "guidance_scale is nan"),
    ({"--guidance_rescale": "2"}, "guidance_rescale is 2.0"),
    ({"--eta": "-1"}, "eta is -1.0"),
    ({"--eta": "0.5", "--scheduler": "euler"}, "adds no noise"),
    ({"--seed": "-1"}, "seed -1 is out of range"),
    ({"--num_videos_per_prompt": "0"}, "num_videos_per_prompt is 0"),
    ({"--decode_chunk_size": "0"}, "decode_chunk_size is 0"),
    ({"--fps": "0"}, "fps is 0"),
    ({"--fps": "60", "--formats": "gif"}, "fps of a GIF is 60"),
    ({"--formats": "avi"}, "'avi' is unknown; use mp4, gif, webp, frames"),
    ({"--scheduler": "ddpm"}, "invalid choice: 'ddpm'"),
    ({"--img_free_guidance": "1"}, "img_free_guidance goes with --reference_guidance"),
    ({"--model": "nope"}, "no model at nope: give a model folder (made by `smcd convert`), or one of: tiny"),
    ({"--model": ""}, "is not a model folder"),
    ({"--model": str(TRACKS)}, "is not a model folder: it has no model.json"),
    ({"--output": "out/x.avi"}, "use .mp4, .gif or .webp"),
    ({"--output": "out/"}, "is a folder; add a name"),
    ({"--output": "cut.png/x"}, "cannot write to"),
    ({"--output": "out/" + "x" * 300}, "is too long"),
    ({"--input_data_path": "."}, "leave out --image"),
    ({"--input_data_path": "nope", "--image": None, "--track": None}, "no such folder: nope"),
    ({"--resume": ()}, "--resume goes with --requests"),
    ({"--decode_latents": "out/x.latents.npz"}, "--image is settled in the sample"),
]

# (change of the example's tracks.json, words of the line)
FILES = [
    (lambda file: file.update(objects=[]), "objects must be a non-empty list"),
    (lambda file: file.update(objects=file["objects"] * 5), "5 objects are too many: the model takes 4"),
    (
        lambda file: file["objects"][0]["keyframes"][0].update(box=[float("nan"), 1, 2, 3]),
        "box[0] must be a finite number",
    ),
    (lambda file: file["objects"][0]["keyframes"][0].update(box=[9, 1, 2, 3]), "x2 2 <= x1 9"),
    (lambda file: file["objects"][0]["keyframes"][0].update(box=[700, 1, 720, 3]), "outside the picture"),
    (lambda file: file["objects"][0].update(label=""), "label must be one line of text that is not empty"),
    (lambda file: file.update(version=2), "version must be 1, got 2"),
]

# (file, text, words of the line)
REQUESTS = [
    ("r.csv", "image,trak\nx,y\n", "r.csv: column 'trak' is unknown; did you mean track?"),
    ("r.csv", f"image,track,prompt\n{PICTURE},{TRACK},up\n", "r.csv, row 1 (line 2): 9 cells for 3 columns"),
    ("r.csv", "image\n", "r.csv holds no requests"),
    ("r.csv", "image,image\n1,2\n", "a column is there twice"),
    (
        "r.csv",
        f"image,tracks,seed\n{PICTURE},{TRACKS},1\n{PICTURE},{TRACKS},x\n",
        "row 2 (line 3): seed is 'x'; it must be",
    ),
    (
        "r.csv",
        f"image,tracks\nnope.png,{TRACKS}\n{PICTURE},n\n",
        "row 1 (line 2): nope.png: no such file; check the path (and",
    ),
    (
        "r.csv",
        f"image,tracks,output\n{PICTURE},{TRACKS},a\n{PICTURE},{TRACKS},a\n",
        "row 2 (line 3): row 1 writes a.mp4 too",
    ),
    ("r.jsonl", '{"image": 3}', "row 1 (line 1): image is 3; it must be text"),
    ("r.jsonl", '{"image": "x"}\n\n{"seed": true}', "row 2 (line 3): seed is True; it must be a whole number"),
    ("r.jsonl", '{"image": "x"', "row 1 (line 1): not JSON"),
    ("r.jsonl", "[1]", "row 1 (line 1): [1] is not an object"),
    ("r.jsonl", '{"scheduler": "ddpm"}', "row 1 (line 1): scheduler is 'ddpm'; use one of ddim"),
    ("r.jsonl", '{"image": "a\\u0000b"}', "image holds a zero byte"),
    ("r.txt", "x", "requests are read from .csv (with a header) or .jsonl"),
]


@pytest.fixture(scope="module", autouse=True)
def compile_cache(tmp_path_factory):
    """Some faults show only when the encoders have run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMCD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    """The current folder: empty but for half a picture."""
    monkeypatch.chdir(tmp_path)
    Path("cut.png").write_bytes(Path(PICTURE).read_bytes()[:3000])
    return tmp_path


def refused(arguments: list[str], capfd) -> str:
    """The line with which `smcd` refuses these arguments, after checking that it did nothing else."""
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith("smcd: error: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(Path().rglob("*")) == before
    return shown.err


def command(changes: dict) -> list[str]:
    flags = {"--image": PICTURE, "--prompt": "a rocket", "--track": TRACK, "--output": "out/x", **changes}
    arguments = ["animate"]
    for flag, value in flags.items():
        if value is not None:
            arguments += [flag] if value == () else [flag, value]
    return arguments


@pytest.mark.parametrize(("changes", "words"), OPTIONS, ids=[words[:40] for _, words in OPTIONS])
def test_a_wrong_option_is_refused(changes, words, capfd):
    assert words in refused(command(changes), capfd)


@pytest.mark.parametrize(("change", "words"), FILES, ids=[words[:40] for _, words in FILES])
def test_a_wrong_tracks_file_is_refused(change, words, capfd):
    content = json.loads(TRACKS.read_text())
    change(content)
    Path("t.json").write_text(json.dumps(content))
    assert words in refused(command({"--track": None, "--tracks": "t.json"}), capfd)


@pytest.mark.parametrize(("name", "text", "words"), REQUESTS, ids=[words[:40] for _, _, words in REQUESTS])
def test_wrong_requests_are_refused_by_file_and_row_before_any_is_computed(name, text, words, capfd):
    Path(name).write_text(text)
    assert words in refused(["animate", "--requests", name], capfd)


def test_the_reference_folder_needs_a_label(capfd):
    Path("mine").mkdir()
    shutil.copy(PICTURE, "mine/img.png")
    Path("mine/bbox.txt").write_text("300,125,345,405\n")
    changes = {"--image": None, "--track": None, "--input_data_path": "mine"}
    assert "mine/bbox.txt does not name its object; pass --label" in refused(command(changes), capfd)


@pytest.mark.parametrize("text", ["", "PK\3\4 not really", None])
def test_a_file_that_is_no_kept_sample_is_refused(text, capfd):
    if text is not None:
        Path("x.latents.npz").write_text(text)
    assert "x.latents.npz" in refused(["animate", "--decode_latents", "x.latents.npz"], capfd)


def cut(pattern: str):
    def damage(folder: Path) -> None:
        files = [file for file in folder.glob(pattern) if file.is_file()]
        assert files
        for file in files:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def flip_a_bit(pattern: str):
    def damage(folder: Path) -> None:
        file = max((file for file in folder.glob(pattern) if file.is_file()), key=lambda file: file.stat().st_size)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    return damage


def describe(change):
    def damage(folder: Path) -> None:
        content = json.loads((folder / "model.json").read_text())
        change(content)
        (folder / "model.json").write_text(json.dumps(content))

    return damage


def exchange_unet(folder: Path) -> None:
    shutil.rmtree(folder / "params" / "unet")
    shutil.copytree(folder / "params" / "autoencoder", folder / "params" / "unet")


MODELS = [
    (cut("model.json"), "model.json cannot be read"),
    (cut("checksums.json"), "checksums.json cannot be read"),
    (cut("tokenizer/tokenizer.json"), "tokenizer.json is not a tokeniser file"),
    (cut("params/unet/ocdbt.process_0/d/*"), "params/unet cannot be restored"),
    (cut("params/unet/_METADATA"), "params/unet cannot be restored"),
    (
        lambda folder: shutil.rmtree(folder / "params" / "unet"),
        "params/unet is missing; the model folder is incomplete",
    ),
    (flip_a_bit("params/text_encoder/ocdbt.process_0/d/*"), "1 arrays differ from checksums.json (text_encoder/"),
    (exchange_unet, "arrays missing (conv_out/bias"),
    (describe(lambda model: model["components"]["unet"].update(gate="double")), "unet: 14 arrays missing"),
    (describe(lambda model: model["components"]["unet"].update(gate="object")), "unet: 119 arrays extra"),
    (describe(lambda model: model["components"]["unet"].update(width=64)), "arrays of another shape"),
    (describe(lambda model: model["components"]["unet"].update(head_dim=0)), "describes no possible unet"),
    (describe(lambda model: model["components"]["unet"].update(wdth=64)), "unknown key 'wdth'"),
    (describe(lambda model: model["components"].pop("position_net")), "the model has no position_net"),
    (describe(lambda model: model.update(origin=[])), "origin must be an object"),
    (describe(lambda model: model.update(version=2)), "format version 2; this release reads version 1"),
]


@pytest.mark.parametrize(("damage", "words"), MODELS, ids=[words[:40] for _, words in MODELS])
def test_a_damaged_model_folder_or_one_of_another_variant_is_refused(damage, words, workplace, capfd):
    shutil.copytree(ASSETS / "models" / "tiny", workplace / "model")
    damage(workplace / "model")
    before = sorted(workplace.rglob("*"))
    assert main([*command({"--model": "model"}), "--quiet", "--num_inference_steps", "1"]) == 2
    shown = capfd.readouterr().err
    assert shown.startswith("smcd: error: ")
    assert words in shown
    assert shown.count("\n") == 1  # of whatever thread or library
    assert sorted(workplace.rglob("*")) == before


def test_noise_without_signal_is_refused_where_noise_is_predicted(workplace, capfd):
    shutil.copytree(ASSETS / "models" / "tiny", workplace / "model")
    describe(lambda model: model["sampling"].update(prediction_type="epsilon"))(workplace / "model")
    assert main(command({"--model": "model", "--rescale_zero_terminal_snr": ()})) == 2
    shown = capfd.readouterr().err
    assert "leaves x_0 undefined" in shown
    assert shown.count("\n") == 1


def test_what_else_fails_to_load_from_a_cut_folder_is_not_told(workplace):
    """Without silencing it, one such load in two fills the terminal with tracebacks of other threads."""
    shutil.copytree(ASSETS / "models" / "tiny", workplace / "model")
    cut("params/unet/ocdbt.process_0/d/*")(workplace / "model")
    code = (
        "import contextlib; from smcd_jax.errors import SMCDError; from smcd_jax.model_folder import ModelFolder\n"
        "for _ in range(8):\n"
        "    with contextlib.suppress(SMCDError): ModelFolder('model').leaves('unet')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
