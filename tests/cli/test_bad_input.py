"""Wrong input to `smcd animate`: one line with advice, exit status 2, and no files left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from smcd_jax.cli import main
from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import SHIPPED
from tests.cli.command_errors import failure

ASSETS = Path(str(resources.files("smcd_jax") / "assets"))
PICTURE = str(ASSETS / "examples" / "rocket" / "img.png")
TRACKS = ASSETS / "examples" / "rocket" / "tracks.json"
TRACK = "rocket: 300,125,345,405 -> 300,10,345,290"

# (changes to a valid command, expected fields of the error); None removes the flag
OPTIONS = [
    ({"--image": "nope.png"}, {"path": "nope.png"}),
    ({"--image": str(TRACKS)}, {"path": str(TRACKS)}),
    ({"--image": "."}, {"path": "."}),
    ({"--image": "cut.png"}, {"path": "cut.png"}),
    ({"--image": ""}, {"argument": "image", "value": ""}),
    ({"--image": None}, {"argument": "image"}),
    ({"--prompt": ""}, {"argument": "prompt", "value": ""}),
    ({"--prompt": " \t"}, {"argument": "prompt", "value": " \t"}),
    ({"--prompt": None}, {"argument": "prompt"}),
    ({"--prompt": "word " * 500}, {"argument": "prompt"}),
    ({"--prompt": "a\udcffb"}, {"argument": "prompt"}),
    ({"--negative_prompt": "word " * 500}, {"argument": "negative_prompt"}),
    ({"--track": "rocket: 900,125,945,405"}, {"argument": "track", "value": [900.0, 125.0, 945.0, 405.0]}),
    ({"--track": "rocket: 345,125,300,405"}, {"argument": "track", "value": [345.0, 125.0, 300.0, 405.0]}),
    ({"--track": "rocket: 1,9,2,9"}, {"argument": "track", "value": [1.0, 9.0, 2.0, 9.0]}),
    ({"--track": "rocket: nan,125,345,405"}, {"argument": "track", "value": "nan"}),
    ({"--track": "rocket: 1,2,3"}, {"argument": "track", "value": "1,2,3"}),
    ({"--track": "1,2,3,4"}, {"argument": "track", "value": "1,2,3,4"}),
    ({"--track": None}, {"argument": "tracks"}),
    ({"--track": "dog " * 100 + ": 1,2,3,4"}, {"argument": "label"}),
    ({"--tracks": "nope.json"}, {"path": "nope.json"}),
    ({"--tracks": PICTURE}, {"path": PICTURE}),
    ({"--tracks": str(TRACKS), "--tracks_format": "mot"}, {"argument": "line 1", "path": str(TRACKS), "value": "{"}),
    ({"--label": "x"}, {"argument": "label"}),
    ({"--height": "63"}, {"argument": "height", "value": 63}),
    ({"--width": "0"}, {"argument": "width", "value": 0}),
    ({"--height": "10000000000"}, {"argument": "height", "value": 2560000000000}),
    ({"--num_frames": "0"}, {"argument": "num_frames", "value": 0}),
    ({"--num_frames": "99999999"}, {"argument": "num_frames", "value": 102399998976}),
    ({"--num_inference_steps": "0"}, {"argument": "num_inference_steps", "value": 0}),
    ({"--num_inference_steps": "1001"}, {"argument": "num_steps"}),
    ({"--num_inference_steps": "2.5"}, {"argument": "num_inference_steps"}),
    ({"--guidance_scale": "nan"}, {"argument": "guidance_scale"}),
    ({"--guidance_rescale": "2"}, {"argument": "guidance_rescale", "value": 2.0}),
    ({"--eta": "-1"}, {"argument": "eta", "value": -1.0}),
    ({"--eta": "0.5", "--scheduler": "euler"}, {"words": "adds no noise"}),
    ({"--seed": "-1"}, {"argument": "seed", "value": -1}),
    ({"--num_videos_per_prompt": "0"}, {"argument": "num_videos_per_prompt", "value": 0}),
    ({"--decode_chunk_size": "0"}, {"argument": "decode_chunk_size", "value": 0}),
    ({"--fps": "0"}, {"argument": "fps", "value": 0.0}),
    ({"--fps": "60", "--formats": "gif"}, {"argument": "fps", "value": 60.0}),
    ({"--formats": "avi"}, {"argument": "formats"}),
    ({"--scheduler": "ddpm"}, {"argument": "scheduler"}),
    ({"--img_free_guidance": "1"}, {"argument": "img_free_guidance", "value": 1.0}),
    ({"--loop": ()}, {"argument": "loop", "value": True}),
    ({"--end_image": "cut.png"}, {"argument": "end_image"}),
    (
        {"--model": "nope"},
        {"words": "no model at nope: give a model folder (made by `smcd convert`), or one of: " + ", ".join(SHIPPED)},
    ),
    ({"--model": ""}, {"words": "is not a model folder"}),
    ({"--model": str(TRACKS)}, {"words": "is not a model folder: it has no model.json"}),
    ({"--output": "out/x.avi"}, {"argument": "output", "value": "out/x.avi"}),
    ({"--output": "out/"}, {"argument": "output", "value": "out/"}),
    ({"--output": "cut.png/x"}, {"argument": "output"}),
    ({"--output": "out/" + "x" * 300}, {"argument": "output"}),
    ({"--input_data_path": "."}, {"argument": "image"}),
    ({"--input_data_path": "nope", "--image": None, "--track": None}, {"argument": "input_data_path", "path": "nope"}),
    ({"--resume": ()}, {"argument": "resume"}),
    ({"--decode_latents": "out/x.latents.npz"}, {"argument": "image", "path": "out/x.latents.npz"}),
]

# (change to the example's tracks.json, expected fields of the error)
FILES = [
    (lambda file: file.update(objects=[]), {"argument": "objects", "path": "t.json", "value": []}),
    (lambda file: file.update(objects=file["objects"] * 5), {"argument": "tracks", "value": 5}),
    (
        lambda file: file["objects"][0]["keyframes"][0].update(box=[float("nan"), 1, 2, 3]),
        {"argument": "objects[0].keyframes[0].box[0]", "path": "t.json"},
    ),
    (
        lambda file: file["objects"][0]["keyframes"][0].update(box=[9, 1, 2, 3]),
        {"argument": "objects[0].keyframes[0].box", "value": [9, 1, 2, 3]},
    ),
    (
        lambda file: file["objects"][0]["keyframes"][0].update(box=[700, 1, 720, 3]),
        {"argument": "boxes", "value": [700.0, 1.0, 720.0, 3.0]},
    ),
    (lambda file: file["objects"][0].update(label=""), {"argument": "objects[0].label", "path": "t.json", "value": ""}),
    (lambda file: file.update(version=2), {"argument": "version", "path": "t.json", "value": 2}),
]

# (file name, its text, expected fields of the error and the row that the message names)
REQUESTS = [
    ("r.csv", "image,trak\nx,y\n", {"argument": "requests", "value": "trak"}),
    ("r.csv", f"image,track,prompt\n{PICTURE},{TRACK},up\n", {"path": "r.csv", "value": 9, "row": 1}),
    ("r.csv", "image\n", {"argument": "requests", "path": "r.csv"}),
    ("r.csv", "image,image\n1,2\n", {"path": "r.csv", "value": ("image", "image")}),
    (
        "r.csv",
        f"image,tracks,seed\n{PICTURE},{TRACKS},1\n{PICTURE},{TRACKS},x\n",
        {"argument": "seed", "value": "x", "row": 2},
    ),
    (
        "r.csv",
        f"image,tracks\nnope.png,{TRACKS}\n{PICTURE},n\n",
        {"path": "nope.png", "row": 1},
    ),
    (
        "r.csv",
        f"image,tracks,output\n{PICTURE},{TRACKS},a\n{PICTURE},{TRACKS},a\n",
        {"argument": "output", "path": "a.mp4", "row": 2},
    ),
    ("r.jsonl", '{"image": 3}', {"argument": "image", "value": 3, "row": 1}),
    ("r.jsonl", '{"image": "x"}\n\n{"seed": true}', {"argument": "seed", "value": True, "row": 2}),
    ("r.jsonl", '{"image": "x"', {"path": "r.jsonl", "row": 1}),
    ("r.jsonl", "[1]", {"path": "r.jsonl", "value": [1], "row": 1}),
    ("r.jsonl", '{"scheduler": "ddpm"}', {"argument": "scheduler", "value": "ddpm", "row": 1}),
    ("r.jsonl", '{"image": "a\\u0000b"}', {"argument": "image", "row": 1}),
    ("r.txt", "x", {"argument": "requests", "path": "r.txt"}),
]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    """The working directory, empty except for a truncated picture."""
    monkeypatch.chdir(tmp_path)
    Path("cut.png").write_bytes(Path(PICTURE).read_bytes()[:3000])
    return tmp_path


def refused(arguments: list[str], capfd) -> SMCDError:
    """Returns the error with which `smcd` refuses these arguments, and checks that it writes nothing."""
    before = sorted(Path().rglob("*"))
    error = failure(arguments)
    shown = capfd.readouterr()
    assert shown.err == f"smcd: error: {error}\n"
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(Path().rglob("*")) == before
    return error


def command(changes: dict) -> list[str]:
    flags = {"--image": PICTURE, "--prompt": "a rocket", "--track": TRACK, "--output": "out/x", **changes}
    arguments = ["animate"]
    for flag, value in flags.items():
        if value is not None:
            arguments += [flag] if value == () else [flag, value]
    return arguments


@pytest.mark.parametrize(("changes", "fields"), OPTIONS)
def test_a_wrong_option_is_refused(changes, fields, capfd):
    check(refused(command(changes), capfd), **fields)


@pytest.mark.parametrize(("change", "fields"), FILES)
def test_a_wrong_tracks_file_is_refused(change, fields, capfd):
    content = json.loads(TRACKS.read_text())
    change(content)
    Path("t.json").write_text(json.dumps(content))
    check(refused(command({"--track": None, "--tracks": "t.json"}), capfd), **fields)


@pytest.mark.parametrize(("name", "text", "fields"), REQUESTS)
def test_wrong_requests_are_refused_by_file_and_row_before_any_is_computed(name, text, fields, capfd):
    Path(name).write_text(text)
    check(refused(["animate", "--requests", name], capfd), **fields)


def check(error: SMCDError, *, words: str = "", row: int | None = None, **fields) -> None:
    assert {name: getattr(error, name) for name in fields} == fields
    assert words in str(error)
    assert row is None or f"row {row} " in str(error)


def test_the_reference_folder_needs_a_label(capfd):
    Path("mine").mkdir()
    shutil.copy(PICTURE, "mine/img.png")
    Path("mine/bbox.txt").write_text("300,125,345,405\n")
    changes = {"--image": None, "--track": None, "--input_data_path": "mine"}
    assert refused(command(changes), capfd).path == "mine/bbox.txt"


@pytest.mark.parametrize("text", ["", "PK\3\4 not really", None])
def test_a_file_other_than_a_kept_sample_is_refused(text, capfd):
    if text is not None:
        Path("x.latents.npz").write_text(text)
    check(
        refused(["animate", "--decode_latents", "x.latents.npz"], capfd),
        argument="decode_latents",
        path="x.latents.npz",
    )


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


# (damage to a model folder, file or folder that the error names, argument that the error names)
MODELS = {
    "description cut": (cut("model.json"), "model.json", None),
    "checksums cut": (cut("checksums.json"), "checksums.json", None),
    "tokenizer cut": (cut("tokenizer/tokenizer.json"), "tokenizer/tokenizer.json", None),
    "arrays cut": (cut("params/unet/ocdbt.process_0/d/*"), "params/unet", None),
    "metadata cut": (cut("params/unet/_METADATA"), "params/unet", None),
    "component removed": (lambda folder: shutil.rmtree(folder / "params" / "unet"), "params/unet", None),
    "bit flipped": (flip_a_bit("params/text_encoder/ocdbt.process_0/d/*"), "", "checksums"),
    "another network": (exchange_unet, "", "unet"),
    "too few arrays": (describe(lambda model: model["components"]["unet"].update(gate="double")), "", "unet"),
    "too many arrays": (describe(lambda model: model["components"]["unet"].update(gate="object")), "", "unet"),
    "other shapes": (describe(lambda model: model["components"]["unet"].update(base_channels=64)), "", "unet"),
    "impossible size": (
        describe(lambda model: model["components"]["unet"].update(head_dim=0)),
        "model.json",
        "unet",
    ),
    "unknown key": (describe(lambda model: model["components"]["unet"].update(wdth=64)), "model.json", "unet.wdth"),
    "origin of another type": (describe(lambda model: model.update(origin=[])), "model.json", "origin"),
    "another version": (describe(lambda model: model.update(version=1)), "model.json", "version"),
    "another family": (describe(lambda model: model.update(family="other")), None, "family"),
    "conditioner not described": (describe(lambda model: model["components"].pop("position_net")), None, "model"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_model_folder_or_one_of_another_variant_is_refused(name, workplace, capfd):
    damage, place, argument = MODELS[name]
    shutil.copytree(ASSETS / "models" / "tiny", workplace / "model")
    damage(workplace / "model")
    before = sorted(workplace.rglob("*"))
    error = failure([*command({"--model": "model"}), "--quiet", "--num_inference_steps", "1"])
    shown = capfd.readouterr().err
    assert shown.startswith("smcd: error: ")
    assert shown.count("\n") == 1  # no other thread or library prints a line
    if place is not None:
        assert Path(error.path) == workplace / "model" / place
    if argument is not None:
        assert error.argument == argument
    assert sorted(workplace.rglob("*")) == before


def test_noise_without_signal_is_refused_where_noise_is_predicted(workplace, capfd):
    shutil.copytree(ASSETS / "models" / "tiny", workplace / "model")
    describe(lambda model: model["sampling"].update(prediction_type="epsilon"))(workplace / "model")
    assert main(command({"--model": "model", "--rescale_zero_terminal_snr": ()})) == 2
    shown = capfd.readouterr().err
    assert "leaves x_0 undefined" in shown
    assert shown.count("\n") == 1


def test_further_failures_to_load_a_truncated_folder_are_silent(workplace):
    """If they were not silenced, every second failure would print many tracebacks from other threads."""
    shutil.copytree(ASSETS / "models" / "tiny", workplace / "model")
    cut("params/unet/ocdbt.process_0/d/*")(workplace / "model")
    code = (
        "import contextlib; from smcd_jax.errors import SMCDError; from smcd_jax.model_folder import ModelFolder\n"
        "for _ in range(3):\n"
        "    with contextlib.suppress(SMCDError): ModelFolder('model').leaves('unet')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
