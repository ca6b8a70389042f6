"""Motion: slow motion, loops and strength without a model, and errors for invalid motion files."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest

from smcd_jax.motion import Motion, load_motion, save_motion
from tests.errors import refused


def swaying(frames: int = 9, *, loop: bool = False) -> Motion:
    """Returns one period of a sinusoidal motion, which ends where it begins; a loop omits the last frame."""
    times = np.arange(frames - loop) / (frames - 1)
    wave = np.sin(2 * np.pi * times)[None, :, None, None, None] * np.ones((1, 1, 4, 4, 2))
    return Motion(0.1 * wave.astype(np.float32), np.full((1, frames - loop, 4, 4), 0.9, np.float32), loop=loop)


def test_slow_motion_keeps_every_frame_and_adds_frames_in_between():
    motion = swaying()
    for how in ("linear", "cubic"):
        slow = motion.slow(4, how)
        assert slow.num_frames == 4 * 8 + 1
        np.testing.assert_allclose(slow.displacement[:, ::4], motion.displacement, atol=1e-7)
    looped = swaying(loop=True)
    assert looped.slow(3).num_frames == 3 * 8


def test_cubic_slow_motion_is_smoother_and_nearer_to_the_true_motion():
    motion = swaying()
    true = 0.1 * np.sin(2 * np.pi * np.arange(33) / 32)
    errors, jumps = {}, {}
    for how in ("linear", "cubic"):
        values = motion.slow(4, how).displacement[0, :, 0, 0, 0]
        errors[how] = np.abs(values - true).max()
        jumps[how] = np.abs(np.diff(values, 2)).max()
    assert errors["cubic"] < 0.6 * errors["linear"]
    assert jumps["cubic"] < 0.6 * jumps["linear"]


def test_frames_between_the_last_and_the_first_of_a_loop_lie_between_them():
    motion = swaying(loop=True)
    last = motion.slow(2).displacement[0, -1, 0, 0, 0]
    ends = motion.displacement[0, [-1, 0], 0, 0, 0]
    assert last == pytest.approx(ends.mean(), abs=1e-7)


def test_strength_multiplies_displacements_alone():
    motion = swaying().scaled(1.5)
    np.testing.assert_allclose(motion.displacement, 1.5 * swaying().displacement, rtol=1e-6)
    np.testing.assert_array_equal(motion.confidence, swaying().confidence)


def test_back_and_forth_returns_through_the_same_frames_and_loops():
    motion = swaying().from_still()
    played = motion.back_and_forth()
    assert played.loop
    assert played.num_frames == 2 * motion.num_frames - 2
    np.testing.assert_array_equal(played.displacement[:, 1], played.displacement[:, -1])
    assert (played.displacement[:, 0] == 0).all()


def test_hidden_share_and_seam_are_measured():
    motion = swaying()
    motion.confidence[:, :, :2] = 0.2
    assert motion.hidden_share == pytest.approx(0.5)
    assert motion.seam == pytest.approx(0, abs=1e-5)
    assert swaying().frames(0, 5).seam < swaying().frames(0, 4).seam


def test_a_motion_file_comes_back_bit_for_bit(tmp_path):
    motion = swaying(loop=True)
    save_motion(tmp_path / "m.npz", motion)
    loaded = load_motion(tmp_path / "m.npz")
    np.testing.assert_array_equal(loaded.displacement, motion.displacement)
    np.testing.assert_array_equal(loaded.confidence, motion.confidence)
    assert loaded.loop
    with refused(argument="save_motion"):
        save_motion(
            tmp_path / "two.npz", Motion(*(np.repeat(x, 2, 0) for x in (motion.displacement, motion.confidence)))
        )


def written(path, **changes):
    motion = swaying()
    values = {
        "format": np.array("smcd-motion"),
        "version": np.int32(1),
        "loop": np.bool_(False),
        "displacement": motion.displacement[0],
        "confidence": motion.confidence[0],
    }
    np.savez(path, **{name: value for name, value in {**values, **changes}.items() if value is not None})
    return path


BAD = {
    "another format": {"format": np.array("other")},
    "a later version": {"version": np.int32(2)},
    "no confidence": {"confidence": None},
    "pickled objects": {"displacement": np.array([{}, {}], object)},
    "other shapes": {"confidence": np.ones((3, 4, 4), np.float32)},
    "whole numbers": {"displacement": np.zeros((9, 4, 4, 2), np.int32)},
    "not finite": {"displacement": np.full((9, 4, 4, 2), np.nan, np.float32)},
    "too far": {"displacement": np.full((9, 4, 4, 2), 100.0, np.float32)},
    "confidence above 1": {"confidence": np.full((9, 4, 4), 1.5, np.float32)},
    "no frames": {"displacement": np.zeros((0, 4, 4, 2), np.float32), "confidence": np.zeros((0, 4, 4), np.float32)},
    "loop is a number": {"loop": np.float32(0)},
}


@pytest.mark.parametrize("fault", BAD)
def test_a_wrong_motion_file_is_refused(tmp_path, fault):
    path = written(tmp_path / "m.npz", **BAD[fault])
    with refused(argument="motion_from", path=path):
        load_motion(path)


def test_missing_damaged_and_huge_files_are_refused(tmp_path, monkeypatch):
    with refused(argument="motion_from", path=tmp_path / "none.npz"):
        load_motion(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"displacement": 1}))
    whole = written(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "pickle", "cut"):
        with refused(argument="motion_from", path=tmp_path / f"{name}.npz"):
            load_motion(tmp_path / f"{name}.npz")
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("displacement.npy", "w") as file:
        for _ in range(300):
            file.write(bytes(2**20))
    assert bomb.stat().st_size < 2**20
    with refused(argument="motion_from", path=bomb, value=300 * 2**20):
        load_motion(bomb)
