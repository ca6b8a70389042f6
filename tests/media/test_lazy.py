"""Sampling does not need PyAV, for example on a GPU host that only runs benchmarks."""

import subprocess
import sys


def test_sampling_its_benchmark_and_training_do_not_import_pyav():
    modules = "smcd_jax.pipeline, smcd_jax.pipeline.benchmark, smcd_jax.training.loop"
    code = f"import sys, {modules}; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
