"""Kernel launches, counted in a small program and in the tiny model's compiled sampling step."""

import jax
import jax.numpy as jnp
import pytest

from smcd_jax.pipeline.sampling_program import compile_sampling
from smcd_jax.runtime.hlo_launches import Launches, launch_report, table
from smcd_jax.runtime.topology import find_topology

PROGRAM = """\
HloModule jit_run, num_partitions=1

%fused (p: bf16[4,8]) -> bf16[8,4] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %t = bf16[8,4]{1,0} transpose(%p), dimensions={1,0}
}

%body (state: (s32[], bf16[4,8], f32[16])) -> (s32[], bf16[4,8], f32[16]) {
  %state = (s32[], bf16[4,8]{1,0}, f32[16]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %weights = bf16[4,8]{1,0} get-tuple-element(%state), index=1
  %x = f32[16]{0} get-tuple-element(%state), index=2
  %wrapped_transpose.1 = bf16[8,4]{1,0} fusion(%weights), kind=kLoop, calls=%fused
  %gemm.2 = (f32[16]{0}, s8[4096]{0}) custom-call(%wrapped_transpose.1, %x), custom_call_target="__cublas$lt$matmul"
  %y = f32[16]{0} get-tuple-element(%gemm.2), index=0
  %loop_add_fusion.clone.3 = s32[] fusion(%i), kind=kLoop, calls=%fused
  ROOT %out = (s32[], bf16[4,8]{1,0}, f32[16]{0}) tuple(%loop_add_fusion.clone.3, %weights, %y)
}

%condition (state: (s32[], bf16[4,8], f32[16])) -> pred[] {
  %state.1 = (s32[], bf16[4,8]{1,0}, f32[16]{0}) parameter(0)
  ROOT %always = pred[] constant(true)
}

ENTRY %main (a: (s32[], bf16[4,8], f32[16])) -> (s32[], bf16[4,8], f32[16]) {
  %a = (s32[], bf16[4,8]{1,0}, f32[16]{0}) parameter(0)
  %copy.1 = f32[16]{0} copy(%a)
  ROOT %while = (s32[], bf16[4,8]{1,0}, f32[16]{0}) while(%a), condition=%condition, body=%body TRIPS
}
"""


@pytest.mark.parametrize(
    ("trips", "times", "unknown"), [('backend_config={"known_trip_count":{"n":"7"}}', 7, 0), ("", 1, 1)]
)
def test_loops_count_their_trips(trips, times, unknown):
    report = launch_report(PROGRAM.replace("TRIPS", trips))
    assert report.by_kind == {
        "wrapped_transpose": Launches(times, 64 * times),
        "__cublas$lt$matmul": Launches(times, 64 * times),  # the workspace is not counted
        "loop_add_fusion": Launches(times, 4 * times),
        "copy": Launches(1, 64),
    }
    assert (report.outside, report.unknown_loops) == (Launches(1, 64), unknown)
    assert report.per_step == Launches(3 * times, 132 * times)
    assert report.repeated == {"wrapped_transpose.1": Launches(times, 64 * times)}  # transposes constant weights


def test_the_table_ends_with_the_totals():
    lines = table(launch_report(PROGRAM.replace("TRIPS", ""))).splitlines()
    assert lines[-3].split() == ["4", "0.0", "all"]
    assert len(lines) == 8


def test_a_loop_of_ten_sums_counts_ten_times():
    def run(x):
        return jax.lax.fori_loop(0, 10, lambda _, x: jnp.sin(x @ x), x)

    report = launch_report(jax.jit(run).lower(jnp.ones((64, 64))).compile().as_text())
    assert report.per_step.count % 10 == 0
    assert report.per_step.count >= 20


def test_a_step_of_the_tiny_model_has_at_most_1900_parts():
    report = launch_report(compile_sampling("tiny", find_topology("local")).as_text())
    assert report.unknown_loops == 1  # the sampling loop, whose number of steps is an argument
    assert report.per_step.count <= 1900  # 1834 with jax 0.10.2
