"""Tests of `smcd bench memory`: the memory of the programs that make a clip, and the verdict."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smcd_jax.cli import main
from smcd_jax.models.registry import make_model, presets
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.pipeline import sampling_program
from smcd_jax.pipeline.sampling_program import compile_decoding, weight_bytes
from smcd_jax.runtime.topology import find_topology
from tests.cli.command_errors import failure

GIB = 2**30


class Sizes:
    """A mock of `jax.stages.Compiled` that reports a program's memory."""

    def __init__(self, arguments: int, temporaries: int):
        self.argument_size_in_bytes, self.temp_size_in_bytes = arguments, temporaries
        self.output_size_in_bytes = self.alias_size_in_bytes = self.generated_code_size_in_bytes = 0

    def memory_analysis(self):
        return self


def test_a_smaller_chunk_needs_less_memory_to_decode():
    local = find_topology("local")
    sizes = [compile_decoding("tiny", local, chunk_size=chunk).memory_analysis() for chunk in (1, 8)]
    assert sizes[0].temp_size_in_bytes < 0.3 * sizes[1].temp_size_in_bytes
    model = make_model(presets()["tiny"])
    decoder = flatten(abstract_params(model.components["autoencoder"].config))
    stored = sum(int(np.prod(leaf.shape)) for name, leaf in decoder.items()) * 4
    assert weight_bytes("tiny", local)["autoencoder"] == stored
    assert sizes[0].argument_size_in_bytes <= stored + 8 * 8 * 8 * 4 * 4 + 4  # plus latents and an index


@pytest.mark.parametrize(("usable", "verdict"), [(20 * GIB, ": fits"), (10 * GIB, "DOES NOT FIT"), (None, "")])
def test_the_largest_program_decides_whether_a_model_fits(monkeypatch, capsys, tmp_path, usable, verdict):
    local = find_topology("local")._replace(usable_bytes=usable)
    monkeypatch.setattr("smcd_jax.runtime.topology.find_topology", lambda name: local)
    monkeypatch.setattr(sampling_program, "compile_sampling", lambda *args, **options: Sizes(3 * GIB, 5 * GIB))
    monkeypatch.setattr(sampling_program, "compile_decoding", lambda *args, **options: Sizes(1 * GIB, 11 * GIB))
    output = tmp_path / "memory.json"
    assert main(["bench", "memory", "--preset", "tiny", "--output", str(output)]) in (0, None)
    found = json.loads(output.read_text())["bytes"]
    assert (found["denoise"], found["decode"]) == (8 * GIB, 12 * GIB)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "12.00 GiB" in last
    assert last.endswith(verdict or "12.00 GiB")


@pytest.mark.parametrize("name", ["batch", "decode_chunk_size"])
def test_numbers_below_one_are_refused(name):
    assert failure(["bench", "memory", f"--{name}", "0"]).argument == name
