"""Compiler settings of the tests, which spend most of their time tracing and compiling small programs."""

import os

# XLA's older emitters and one LLVM module per program reduce the processor time of compiling a gradient of the tiny
# network from 9.2 s to 6 s. The two pytest workers use all cores, so programs need not be split over threads.
FAST_COMPILATION = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_disable_hlo_passes=cpu-parallel-task-assigner",
)
DEVICES = "--xla_force_host_platform_device_count"


def xla_flags(devices: int = 1) -> str:
    """Returns XLA's flags for a process of the tests with this number of simulated CPU devices.

    With the environment variable JAX_DISABLE_MOST_OPTIMIZATIONS=0, programs are compiled as users compile them.
    """
    fast = FAST_COMPILATION if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1" else ()
    given = os.environ.get("XLA_FLAGS", "").split()
    return " ".join([*(flag for flag in given if not flag.startswith((DEVICES, *fast))), *fast, f"{DEVICES}={devices}"])
