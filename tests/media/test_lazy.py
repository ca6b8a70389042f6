"""Sampling does not need PyAV, for example on a GPU host that only runs benchmarks."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_sampling_its_benchmark_and_training_do_not_import_pyav():
    modules = "smcd_jax.pipeline, smcd_jax.pipeline.benchmark, smcd_jax.training.loop"
    code = f"import sys, {modules}; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_small_models_recipe_runs_without_pyav(tmp_path):
    """Its commands start, and frames are written and read back."""
    code = """
import sys
sys.modules["av"] = None  # importing it fails
import numpy as np
import launch.train_small, smcd_jax.cli.evaluate, smcd_jax.cli.prepare, smcd_jax.evaluation.run, smcd_jax.pipeline.clip
from smcd_jax.media import read_video, write_frames
frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
write_frames(frames, sys.argv[1])
assert (read_video(sys.argv[1])[0] == frames).all()
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "clip"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
