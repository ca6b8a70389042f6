"""A full disk while a checkpoint is written gives one line of output; threads of other libraries print nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap

PROGRAM = """
    import resource, sys
    import jax, numpy as np
    from smcd_jax import cli
    from smcd_jax.cli.console import libraries_quiet
    from smcd_jax.training.checkpoint.checkpoints import Checkpoints

    def save(arguments):
        with libraries_quiet(verbose=False):
            checkpoints = Checkpoints(sys.argv[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # stands in for a full disk
            for step in (2, 4):
                kernels = {f"l{part}": np.full((600, 150 * step), part, np.float32) for part in range(10)}
                params = jax.tree.map(jax.numpy.asarray, kernels)
                train = {"step": jax.numpy.int32(step)}
                checkpoints.save(step, params=params, train=train, data={}, config={}, wait=True)

    cli._run = save
    sys.exit(cli.main([]))
"""


def test_case_53_a_full_disk_is_one_line(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "could not be saved" in line
