"""Compiler settings of the tests, which spend most of their time tracing and compiling small programs."""

import importlib.metadata
import os

# XLA's older emitters and one LLVM module per program reduce the processor time of compiling a gradient of the tiny
# network from 9.2 s to 6 s. The two pytest workers use all cores, so programs need not be split over threads.
FAST_COMPILATION = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_disable_hlo_passes=cpu-parallel-task-assigner",
)
DEVICES = "--xla_force_host_platform_device_count"


OLD_EMITTERS = "--xla_cpu_use_fusion_emitters"  # XLA stops the process at a flag it does not know


def xla_flags(devices: int = 1) -> str:
    """Returns XLA's flags for a process of the tests with this number of simulated CPU devices.

    With the environment variable JAX_DISABLE_MOST_OPTIMIZATIONS=0, programs are compiled as users compile them.
    """
    fast = _known() if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1" else ()
    given = os.environ.get("XLA_FLAGS", "").split()
    return " ".join([*(flag for flag in given if not flag.startswith((DEVICES, *fast))), *fast, f"{DEVICES}={devices}"])


def _known() -> tuple[str, ...]:
    """Returns the flags that the installed XLA knows: that of jax 0.11 has only the new emitters."""
    release = tuple(map(int, importlib.metadata.version("jax").split(".")[:2]))
    return tuple(flag for flag in FAST_COMPILATION if release < (0, 11) or not flag.startswith(OLD_EMITTERS))
