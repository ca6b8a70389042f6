"""Runs the golden cases as tests; ``tests/golden/check.py`` prints the same comparisons as a table."""

import json

import pytest

from smcd_jax.runtime.compilation import enable_compile_cache
from tests.conftest import SHARED
from tests.golden.check import RUNNERS
from tests.golden.check import main as check
from tests.golden.comparison import Golden

CASES = SHARED / "golden" / "cases.json"
# DynamiCrafter's quick cases, and one case of each slower kind; check.py runs all of them
DYNAMICRAFTER = SHARED / "golden_dynamicrafter" / "cases.json"
LVMM = SHARED / "golden_lvmm" / "cases.json"
DYNAMICRAFTER_LONG = ("pipeline/cli_loop_512.npz", "pipeline/gui_loop_512.npz", "train/v_512_style_interp.npz")
DYNAMICRAFTER_SHORT = ("modules/", "data/", "diffusion/schedules")
# SMCD's slow cases, and what else finds the same mistakes. check.py and the slow run compare them as well.
SLOW = (
    "ddim50",  # ten steps of the same program
    "ddim10_gs1",  # the same program with other scales: img0 and img1.5_ti1.5
    "ddim10_img1.5.npz",
    "ddim10_ti1.5",
    "unet/base.npz",  # unet/base_fps.npz, whose second output is that without a frame rate
    "unet/vanilla_cross_vision_parallel.npz",  # the gate's transformer block, and the network with another gate
    "train/stage1_nodrop.npz",  # stage 2, still images of unet/vanilla.npz, and recorded losses
)
LEFT_OUT = {"weights", "unet_fullsize", "temporal_transformer_window", "obj_oriented_attention"}


def cases():
    if not CASES.is_file():
        skip = pytest.mark.skip(reason=f"needs the golden folder beside the project: {CASES}")
        return [pytest.param("none", {}, marks=skip)]
    listed = json.loads(CASES.read_text())
    return [
        pytest.param(file, case, id=file, marks=[pytest.mark.slow] if any(name in file for name in SLOW) else [])
        for file, case in listed.items()
        if case["kind"] not in LEFT_OUT
    ]


def assert_agrees(folder, file, case):
    enable_compile_cache()
    results = list(RUNNERS[case["kind"]](Golden(folder, file, case)))
    assert results
    for result in results:
        assert result.ok, f"{result.quantity}: error {result.error:.2e}, allowed {result.tolerance:.2e}"


@pytest.mark.parametrize(("file", "case"), cases())
def test_agrees_with_the_reference(file, case):
    assert_agrees(CASES.parent, file, case)


def dynamicrafter_files():
    listed = json.loads(DYNAMICRAFTER.read_text()) if DYNAMICRAFTER.is_file() else {}
    short = [file for file, case in listed.items() if file.startswith(DYNAMICRAFTER_SHORT) and not case.get("optional")]
    pipeline, *slow = DYNAMICRAFTER_LONG
    # The web demo samples with the same network and scales. The gradient takes longest to compile; its loss is SMCD's.
    return [*short, pipeline, *(pytest.param(file, marks=pytest.mark.slow) for file in slow)]


@pytest.mark.skipif(not DYNAMICRAFTER.is_file(), reason=f"needs the golden folder beside the project: {DYNAMICRAFTER}")
@pytest.mark.parametrize("file", dynamicrafter_files())
def test_dynamicrafter_agrees_with_the_reference(file):
    assert_agrees(DYNAMICRAFTER.parent, file, json.loads(DYNAMICRAFTER.read_text())[file])


def lvmm_files():
    listed = json.loads(LVMM.read_text()) if LVMM.is_file() else {}
    # compiling the training step in float32 and float64 with VGG19 is slow; check.py and the slow run compare it
    slow = [pytest.mark.slow]
    return [pytest.param(file, id=file, marks=slow if "reconstruction" in file else []) for file in listed]


@pytest.mark.skipif(not LVMM.is_file(), reason=f"needs the golden folder beside the project: {LVMM}")
@pytest.mark.parametrize("file", lvmm_files())
def test_lvmm_agrees_with_the_reference(file):
    assert_agrees(LVMM.parent, file, json.loads(LVMM.read_text())[file])


@pytest.mark.parametrize(
    ("content", "status"),
    [({}, 1), ({"x.npz": {"kind": "something new", "config": {}}}, 1), (None, 2)],
    ids=["no case", "unknown kind", "no cases.json"],
)
def test_a_run_without_comparisons_fails(tmp_path, monkeypatch, capsys, content, status):
    if content is not None:
        (tmp_path / "cases.json").write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["check.py", str(tmp_path)])
    assert check() == status


def test_a_wrong_number_is_found(shared, tmp_path, monkeypatch, capsys):
    """The check fails if one output of a file is changed in its fourth digit."""
    import numpy as np

    file = "modules/position_net.npz"
    arrays = dict(np.load(shared / "golden" / file))
    arrays["out/objs"] = arrays["out/objs"] * 1.001
    (tmp_path / "modules").mkdir()
    np.savez(tmp_path / file, **arrays)
    cases = json.loads(CASES.read_text())
    (tmp_path / "cases.json").write_text(json.dumps({file: cases[file]}))
    monkeypatch.setattr("sys.argv", ["check.py", str(tmp_path)])
    assert check() == 1
    assert "3 checked, 1 failed" in capsys.readouterr().out
