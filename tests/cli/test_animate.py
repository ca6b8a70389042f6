"""`smcd animate` with the shipped model: its files, repeated runs, finishing an interrupted run, and batches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smcd_jax import load_tracks
from smcd_jax.cli import main
from smcd_jax.errors import SMCDError
from smcd_jax.media import encoder, probe_video, read_video
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.smcd.guidance import reference_guidance
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.clip import check_clip
from smcd_jax.pipeline.clip_files import ClipFiles, clip_files
from smcd_jax.pipeline.request import make_request
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tracks import BoxTracks, parse_track_file
from tests.cli.command_errors import failure
from tests.errors import refused
from tests.pipeline.shared_programs import share_no_programs

EXAMPLE = Path(str(resources.files("smcd_jax") / "assets" / "examples" / "rocket"))
PICTURE, TRACKS = str(EXAMPLE / "img.png"), str(EXAMPLE / "tracks.json")
INPUT = ["animate", "--image", PICTURE, "--tracks", TRACKS, "--num_inference_steps", "2"]


pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> Path:
    """The folder with `clip.*`: the results of one run in every format."""
    folder = tmp_path_factory.mktemp("first")
    assert (
        main([*INPUT, "--output", str(folder / "clip"), "--formats", "gif,webp,frames", "--seed", "5", "--quiet"]) == 0
    )
    return folder


@pytest.fixture(scope="module")
def pipeline() -> VideoPipeline:
    return VideoPipeline.from_pretrained("tiny")


def strictly(text: str):
    """Parses JSON, failing on NaN and infinities, which the JSON standard excludes."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def frames_of(folder: Path) -> bytes:
    frames, _ = read_video(folder)
    return frames.tobytes()


def test_a_run_writes_every_file_and_nothing_else(first_run):
    names = {"clip.mp4", "clip.gif", "clip.webp", "clip_frames", "clip_boxes.mp4", "clip.json"}
    assert {entry.name for entry in first_run.iterdir()} == names
    video = probe_video(first_run / "clip.mp4")
    assert (video["codec"], video["pix_fmt"], video["frames"], video["fps"]) == ("h264", "yuv420p", 8, 8.0)
    assert (video["height"], video["width"]) == (32, 32)
    assert probe_video(first_run / "clip_boxes.mp4")["frames"] == 8
    assert len(list((first_run / "clip_frames").iterdir())) == 8


def test_the_description_says_how_the_clip_was_made(first_run):
    said = strictly((first_run / "clip.json").read_text(encoding="utf-8"))
    assert (said["format"], said["version"], said["seed"]) == ("smcd-run", 1, 5)
    assert said["prompt"] == load_tracks(TRACKS).prompt
    assert said["negative_prompt"] is None
    assert said["model_hash"] == ModelFolder("tiny").digest
    assert said["options"]["num_inference_steps"] == 2
    sizes = {name: said["options"][name] for name in ("height", "width", "num_frames", "fps", "dtype")}
    assert sizes == {"height": 32, "width": 32, "num_frames": 8, "fps": 8.0, "dtype": "float32"}
    assert set(said["seconds"]) == {"load", "compile", "encode", "denoise", "decode"}
    assert all(value >= 0 for value in said["seconds"].values())
    assert {"smcd_jax", "jax", "jaxlib", "python"} <= set(said["versions"])
    assert said["platform"] == "cpu"
    tracks = parse_track_file(json.dumps(said["tracks"])).to_pixel_tracks().to_box_tracks()
    np.testing.assert_array_equal(tracks.boxes, load_tracks(TRACKS).boxes)


def test_the_same_command_makes_the_same_frames_and_another_seed_makes_others(first_run, tmp_path):
    assert main([*INPUT, "--output", str(tmp_path / "b"), "--formats", "frames", "--seed", "5", "--quiet"]) == 0
    assert frames_of(tmp_path / "b_frames") == frames_of(first_run / "clip_frames")
    # a file name as output, and fewer frames decoded at a time
    other = ["--output", str(tmp_path / "c.GIF"), "--formats", "frames", "--seed", "6", "--decode_chunk_size", "3"]
    assert main([*INPUT, *other, "--quiet"]) == 0
    assert (tmp_path / "c.gif").is_file()
    assert (tmp_path / "c.mp4").is_file()
    assert frames_of(tmp_path / "c_frames") != frames_of(first_run / "clip_frames")


def test_existing_results_are_refused_before_anything_is_computed(first_run, capsys):
    before = {entry: entry.stat().st_mtime_ns for entry in first_run.iterdir()}
    error = failure([*INPUT, "--output", str(first_run / "clip")])
    assert (error.argument, error.path) == ("output", str(first_run / "clip.mp4"))
    assert capsys.readouterr().err == f"smcd: error: {error}\n"
    assert {entry: entry.stat().st_mtime_ns for entry in first_run.iterdir()} == before


def test_a_run_reports_its_stages_and_overwrites_on_request(tmp_path, capsys):
    (tmp_path / "x.mp4").write_bytes(b"old")
    track = "rocket: 300,-20,345,405 -> 300,10,345,290"
    arguments = ["animate", "--image", PICTURE, "--track", track, "--prompt", "lift off", "--num_inference_steps", "2"]
    assert main([*arguments, "--output", str(tmp_path / "x"), "--overwrite"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("".join(f"wrote {tmp_path / name}\n" for name in ("x.mp4", "x_boxes.mp4", "x.json")))
    assert "\nseconds: load " in shown.out
    assert "smcd: model tiny on cpu in float32\n" in shown.err
    assert "untrained" not in shown.err
    assert "object 0 'rocket': clipped to the picture in frames 0" in shown.err
    assert "smcd: denoise: 2 steps in " in shown.err  # without a terminal, a line and no bar
    assert "\r" not in shown.err
    assert probe_video(tmp_path / "x.mp4")["frames"] == 8


def test_a_run_imports_no_other_framework_even_if_installed(tmp_path):
    code = (
        "import sys; from smcd_jax.cli import main; status = main(sys.argv[1:]);"
        "print([name for name in ('torch', 'tensorflow', 'transformers', 'diffusers', 'cv2') if name in sys.modules]);"
        "sys.exit(status)"
    )
    arguments = [*INPUT, "--output", str(tmp_path / "x"), "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def failing_encode(frames, path, encoding, *, fps, name):
    raise SMCDError(f"cannot write {name}: the encoder failed", path=name)


def test_a_run_that_fails_in_decoding_is_finished_later_with_the_same_frames(first_run, tmp_path, monkeypatch, capsys):
    arguments = [*INPUT, "--seed", "5", "--output", str(tmp_path / "x"), "--formats", "frames"]
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", failing_encode)
        assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    kept = tmp_path / "x.latents.npz"
    assert error.endswith(f"; the sample is kept; finish it with: smcd animate --decode_latents {kept}")
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.latents.npz"}

    assert main(arguments) == 2  # refused without --overwrite, because the kept sample would be lost
    assert "unfinished sample" in capsys.readouterr().err
    assert main(["animate", "--decode_latents", str(kept), "--seed", "7"]) == 2
    assert "--seed" in capsys.readouterr().err
    assert main(["animate", "--decode_latents", str(kept)]) == 0
    assert "denoise" not in capsys.readouterr().err
    written = {"x.mp4", "x_boxes.mp4", "x.json", "x_frames"}
    assert {entry.name for entry in tmp_path.iterdir()} == written
    assert frames_of(tmp_path / "x_frames") == frames_of(first_run / "clip_frames")
    said = [strictly((folder / name).read_text()) for folder, name in ((tmp_path, "x.json"), (first_run, "clip.json"))]
    assert said[0]["options"] == said[1]["options"]
    assert said[0]["seconds"].keys() == said[1]["seconds"].keys()


def test_a_sample_of_another_model_is_not_decoded(tmp_path, capsys):
    kept = ClipFiles(tmp_path, "x")
    description = {"model_hash": "0", "model": "tiny", "formats": ["mp4"], "options": {"fps": 8.0, "dtype": "float32"}}
    tracks = json.loads(Path(TRACKS).read_text())
    kept.keep(np.zeros((1, 8, 8, 8, 4), np.float32), {**description, "tracks": tracks, "seconds": {}, "seed": 0})
    assert main(["animate", "--decode_latents", str(kept.latents), "--quiet"]) == 2
    assert "--model" in capsys.readouterr().err


def test_rows_of_a_batch_share_programs_and_one_that_fails_does_not_lose_the_others(tmp_path, monkeypatch, capsys):
    share_no_programs(monkeypatch)
    table = tmp_path / "requests.csv"
    table.write_text(
        "image,tracks,prompt,guidance_scale,seed,output\n"
        f'{PICTURE},{TRACKS},"up, up",,1,out/a\n'
        f"{PICTURE},{TRACKS},,,2,out/a.mp4/b\n"  # fails: the first row has written the file out/a.mp4
        "\n"
        f"{PICTURE},{TRACKS},,2.5,3,\n"
    )
    common = ["animate", "--requests", str(table), "--num_inference_steps", "2"]
    assert main(common) == 2
    shown = capsys.readouterr()
    assert f"smcd: error: {table}, row 2 (line 3): {tmp_path}/out/a.mp4: " in shown.err
    assert "1 of 3 rows failed (2)" in shown.err
    assert "2 generated, 1 failed, 0 already finished" in shown.out
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"a.json", "a.mp4", "a_boxes.mp4"}
    said = [strictly((tmp_path / name).read_text()) for name in ("out/a.json", "requests_0003.json")]
    assert [row["seed"] for row in said] == [1, 3]
    assert [row["prompt"] for row in said] == ["up, up", load_tracks(TRACKS).prompt]
    assert [row["options"]["guidance_scale"] for row in said] == [7.5, 2.5]
    assert said[1]["seconds"]["compile"] == 0  # another prompt, scale and seed use the same program

    stamp = (tmp_path / "out" / "a.mp4").stat().st_mtime_ns
    assert main(common) == 2
    assert "finished rows with --resume" in capsys.readouterr().err
    table.write_text(table.read_text().replace("a.mp4/b", "b"))
    os.unlink(tmp_path / "requests_0003.mp4")  # as if the run had been killed between two files
    assert main([*common, "--resume"]) == 0
    assert "2 generated, 0 failed, 1 already finished" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.mp4").stat().st_mtime_ns == stamp
    assert (tmp_path / "requests_0003.mp4").exists()
    assert main([*common, "--resume", "--quiet"]) == 0
    table.write_text(table.read_text().replace(",,2.5,", ",,2.25,"))  # the result no longer matches the row
    capsys.readouterr()
    assert main([*common, "--resume", "--quiet"]) == 2
    assert f"row 3 (line 5): {tmp_path}/requests_0003.json: " in capsys.readouterr().err


def test_a_batch_finishes_rows_that_were_interrupted_in_decoding(tmp_path, monkeypatch, capsys):
    requests = tmp_path / "r.jsonl"
    requests.write_text(
        json.dumps({"image": PICTURE, "tracks": TRACKS, "num_inference_steps": 2, "output": "x"}) + "\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", failing_encode)
        assert main(["animate", "--requests", str(requests)]) == 2
    assert "the sample is kept" in capsys.readouterr().err
    assert main(["animate", "--requests", str(requests), "--resume"]) == 0
    assert "denoise" not in capsys.readouterr().err
    assert not (tmp_path / "x.latents.npz").exists()
    assert (tmp_path / "x.mp4").exists()


def test_pictures_of_every_kind_are_animated(tmp_path):
    picture = Image.open(PICTURE).convert("RGB").resize((96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture must be shown rotated by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.convert("P").save(tmp_path / "palette.png", transparency=3)
    transparent = picture.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((96, 64)))
    transparent.save(tmp_path / "transparent.png")
    Image.fromarray(np.linspace(0, 65535, 96 * 64, dtype=np.uint16).reshape(64, 96)).save(tmp_path / "sixteen.png")
    names = ["turned.jpg", "cmyk.jpg", "palette.png", "transparent.png", "sixteen.png"]
    rows = [{"image": name, "track": "thing: 8,8,40,60", "prompt": "it moves", "output": name[:-4]} for name in names]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["animate", "--requests", str(tmp_path / "r.jsonl"), "--num_inference_steps", "2", "--quiet"]) == 0
    sizes = {name: strictly((tmp_path / f"{name[:-4]}.json").read_text())["image_size"] for name in names}
    assert sizes.pop("turned.jpg") == [64, 96]
    assert all(size == [96, 64] for size in sizes.values())


@pytest.fixture
def reference_folder(tmp_path) -> Path:
    folder = tmp_path / "my_rocket"
    folder.mkdir()
    shutil.copy(PICTURE, folder)
    (folder / "bbox.txt").write_text("300,125,345,405\n300,10,345,290\n")
    (folder / "prompt.txt").write_text("a rocket rises\n")
    return folder


def test_the_reference_folder_provides_picture_boxes_and_prompt(pipeline, reference_folder):
    clip = check_clip({"input_data_path": str(reference_folder), "label": "rocket"}, pipeline, formats=())
    assert clip.description["prompt"] == "a rocket rises"
    assert clip.description["image_size"] == [640, 427]
    assert clip.tracks.labels == ("rocket",)
    np.testing.assert_allclose(
        clip.tracks.boxes[-1, 0], np.array([300, 10, 345, 290]) / [640, 427, 640, 427], rtol=1e-6
    )
    assert clip.files.name == "my_rocket"


def test_tracks_of_the_command_line_are_joined_with_those_of_the_file(pipeline):
    given = {"image": PICTURE, "tracks": TRACKS, "track": ["tower: 0,0,90,427", "light: 500,300,520,320 -> 0,0,20,20"]}
    clip = check_clip(given, pipeline, formats=())
    assert clip.tracks.labels == ("rocket", "tower", "light")
    assert clip.files == ClipFiles(Path(), "img")


def test_each_label_keeps_its_own_embedding(pipeline):
    # Three labels are padded to four, so that few programs have to be compiled.
    boxes, mask = np.tile([0.1, 0.1, 0.5, 0.5], (8, 3, 1)), np.ones((8, 3))
    embedded = {}
    for labels in (("dog", "red car", "tree"), ("tree", "dog", "red car")):
        tracks = BoxTracks(boxes, mask, labels)
        request = make_request(pipeline.model, image=PICTURE, prompt="x", tracks=tracks, options=SamplingOptions())
        plan = pipeline.model.plan(request, pipeline.tokenizer)
        embedded[labels] = np.asarray(pipeline.encode_inputs(plan, request.seeds).labels)[0]
    first, second = embedded.values()
    np.testing.assert_array_equal(first[[2, 0, 1]], second[:3])
    assert np.abs(first[0] - first[1]).max() > 0.1


def test_guidance_is_composed_or_that_of_the_reference(pipeline):
    given = {"image": PICTURE, "tracks": TRACKS, "guidance_scale": 5.0}
    composed = check_clip({**given, "image_guidance_scale": 2.0}, pipeline, formats=())
    scales = [composed.description["options"][f"{name}guidance_scale"] for name in ("", "image_", "box_")]
    assert scales == [5.0, 2.0, 1.0]
    additive = {"reference_guidance": True, "img_free_guidance": 1.5, "ti_free_guidance": 0.5}
    reference = check_clip({**given, **additive}, pipeline, formats=())
    expected = reference_guidance(guidance_scale=5.0, img_free_guidance=1.5, ti_free_guidance=0.5)
    assert pipeline.model.guidance(reference.options.as_dict()) == expected
    assert reference.description["options"]["reference_guidance"] is True


def test_objects_absent_from_all_frames_are_ignored_and_noted(pipeline, tmp_path):
    content = json.loads(Path(TRACKS).read_text())
    content["frames"] = 80  # the model uses every eleventh frame
    content["objects"].append({**content["objects"][0], "label": "bird", "visible": [[5, 6]]})
    (tmp_path / "t.json").write_text(json.dumps(content))
    clip = check_clip({"image": PICTURE, "tracks": str(tmp_path / "t.json")}, pipeline, formats=())
    assert clip.tracks.labels == ("rocket",)
    assert clip.notes[-1] == "ignored objects that are in none of the 8 frames: 'bird'"


def test_a_prompt_that_is_too_long_is_truncated_only_on_request(pipeline):
    given = {"image": PICTURE, "tracks": TRACKS, "prompt": "word " * 500}
    with refused("prompt", value=given["prompt"]):
        check_clip(given, pipeline, formats=())
    clip = check_clip({**given, "truncate_prompt": True}, pipeline, formats=())
    (note,) = [note for note in clip.notes if "tokens" in note]
    assert all(count in note for count in ("502", "77"))


def test_several_videos_have_a_number_in_their_names(tmp_path):
    files = clip_files(tmp_path / "a.b", formats=("frames",), count=2)
    tracks = BoxTracks(np.tile([0.1, 0.1, 0.5, 0.5], (3, 1, 1)), np.ones((3, 1)), ("dog",))
    files.write(np.zeros((2, 3, 16, 16, 3), np.uint8), tracks, [{"seed": 1}, {"seed": 2}], fps=4)
    names = [f"a.b_{index}{ending}" for index in (0, 1) for ending in (".json", ".mp4", "_boxes.mp4", "_frames")]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names
    assert strictly((tmp_path / "a.b_1.json").read_text()) == {"seed": 2}


def test_boxes_are_drawn_in_place_on_frames_large_enough_to_read(tmp_path):
    boxes = np.array([[[0.25, 0.5, 0.5, 0.75]], [[0.5, 0.5, 0.75, 1.0]]])
    files = clip_files(tmp_path / "x")
    files.write(np.zeros((1, 2, 64, 96, 3), np.uint8), BoxTracks(boxes, np.ones((2, 1)), ("dog",)), [{}], fps=4)
    drawn, _ = read_video(tmp_path / "x_boxes.mp4")
    assert drawn.shape == (2, 256, 384, 3)
    for frame, (x1, y1, x2, y2) in zip(drawn, boxes[:, 0] * [384, 256, 384, 256], strict=True):
        rows, columns = (frame[..., 0] > 100).nonzero()  # orange on black; H.264 blurs edges by a pixel or two
        assert (columns.min(), columns.max(), rows.max()) == pytest.approx((x1, x2 - 1, y2 - 1), abs=2)
        assert y1 - 30 < rows.min() < y1 - 8  # the label is above the box


def test_if_one_file_cannot_be_written_none_appears(tmp_path):
    files = clip_files(tmp_path / "x.gif", count=2)
    tracks = BoxTracks(np.tile([0.1, 0.1, 0.5, 0.5], (3, 1, 1)), np.ones((3, 1)), ("dog",))
    with pytest.raises(ValueError, match="nan"):  # the last file, the second description, is invalid
        files.write(np.zeros((2, 3, 16, 16, 3), np.uint8), tracks, [{}, {"scale": float("nan")}], fps=4)
    assert list(tmp_path.iterdir()) == []
