"""Reduces a device profile from `jax.profiler` to a table: launches, time by kind, and gaps."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from smcd_jax.errors import SMCDError

# Kinds in the order in which their patterns are tried on the names of a kernel and of its HLO operation.
# "convert" is not a convolution, and layout changes around a cuDNN convolution (nchwToNhwc) are copies.
_PATTERNS = {
    "transpose/copy": r"nchwto|nhwcto|transpose|memcpy|memset|^copy|_copy|copy_|wrapped_(?:slice|concatenate|pad)",
    "attention": r"sdpa|flash|fmha|mha|attention",
    "convolution": r"conv(?!ert)|fprop|dgrad|wgrad|implicit_gemm|winograd",
    "matmul": r"gemm|nvjet|cublas|cutlass|matmul|splitk|(?:^|[_\W])dot(?:[_\W]|$)|gemv",
    "norm/reduction": r"reduce|softmax|norm|argmax",
    "elementwise": r"fusion|wrapped_|loop_|elementwise|add|multiply|divide|tanh|exponential|convert|select|iota"
    r"|broadcast|concatenate|slice|pad|compare|rsqrt|subtract|bitcast|negate|maximum",
}
_KINDS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _PATTERNS.items()}
KINDS = ("convolution", "matmul", "attention", "norm/reduction", "transpose/copy", "elementwise", "other")
# Instructions that tell what a fusion computes; its name alone only says "fusion".
_PRODUCTS = {"convolution": " convolution(", "matmul": " dot("}
_COMPUTATION = re.compile(r"^%?([\w.\-]+) \(.*\{\s*$")
_FUSION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .* fusion\(.*calls=%?([\w.\-]+)")
_CONTAINERS = re.compile(r"(?:while|call|conditional|async-start|async-done|command_buffer)(?:\.\d+)?$")


class Kernel(NamedTuple):
    """One execution of a kernel, or of an operation on a CPU.

    Attributes:
        name: Name of the kernel.
        start_ns: Start in nanoseconds since the profile began.
        duration_ns: Duration in nanoseconds.
        operation: Name of the HLO operation that launched it; empty if unknown.
    """

    name: str
    start_ns: float
    duration_ns: float
    operation: str = ""


@dataclasses.dataclass(frozen=True)
class KindTotal:
    """Number and total time in milliseconds of all kernels of one kind."""

    launches: int
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class ProfileSummary:
    """Summary of a profile. Times are in milliseconds, summed over all steps.

    Attributes:
        steps: Number of steps in the profile.
        launches: Number of kernels.
        window_ms: Time from the start of the first kernel to the end of the last.
        busy_ms: Time during which at least one kernel ran.
        gaps: Number of intervals in which no kernel ran.
        longest_gap_ms: Duration of the longest gap.
        kinds: Totals by kind; their sum exceeds ``busy_ms`` if kernels run concurrently.
        top: Totals by kernel name, without trailing numbers, of the names with the most time.
    """

    steps: int
    launches: int
    window_ms: float
    busy_ms: float
    gaps: int
    longest_gap_ms: float
    kinds: dict[str, KindTotal]
    top: dict[str, KindTotal]

    @property
    def gap_ms(self) -> float:
        """Total time of the gaps between the first and the last kernel."""
        return self.window_ms - self.busy_ms

    def as_dict(self) -> dict[str, Any]:
        """Returns all values by name."""
        return dataclasses.asdict(self) | {"gap_ms": self.gap_ms}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProfileSummary:
        """Returns the summary of a dict made by `as_dict`."""
        totals = {part: {name: KindTotal(**total) for name, total in values[part].items()} for part in ("kinds", "top")}
        return cls(**{name: value for name, value in values.items() if name != "gap_ms"} | totals)


def kind_of(name: str, operation: str = "") -> str:
    """Returns the kind of a kernel, one of `KINDS`, from its name and the name of its HLO operation."""
    return next((kind for kind, found in _KINDS.items() if found.search(name) or found.search(operation)), "other")


def fusion_kinds(hlo: str) -> dict[str, str]:
    """Returns the kind of each fusion with a convolution or matrix product, by name, from `compiled.as_text()`."""
    holds: dict[str, str] = {}
    computation, fusions = "", []
    for line in hlo.splitlines():
        if head := _COMPUTATION.match(line):
            computation = head[1]
        elif fusion := _FUSION.match(line):
            fusions.append((fusion[1], fusion[2]))
        else:
            kind = next((kind for kind, text in _PRODUCTS.items() if text in line), None)
            if kind is not None:
                holds.setdefault(computation, kind)
    return {name: holds[called] for name, called in fusions if called in holds}


def record(run: Callable[[], Any], steps: int, *, hlo: str) -> ProfileSummary:
    """Records and summarizes a profile of a function that runs a compiled program.

    Args:
        run: Function to profile; returns the arrays to wait for.
        steps: Number of steps that it runs.
        hlo: Text of the compiled program, from `compiled.as_text()`.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's events would fill most of the file and slow the host down
    with tempfile.TemporaryDirectory(prefix="smcd-profile-") as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(run())
        return summarize(read_kernels(folder), steps, fusions=fusion_kinds(hlo))


def read_kernels(folder: str | os.PathLike[str]) -> list[Kernel]:
    """Returns the kernels in the newest profile below a folder that `jax.profiler.trace` wrote, sorted by start.

    Kernels come from the streams of a GPU, the operations of a TPU or, if no accelerator ran, those of a CPU.

    Raises:
        SMCDError: The folder has no profile, or the profile has no kernel.
    """
    files = sorted(Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise SMCDError(f"{folder}: no profile (*.xplane.pb) found; record one with jax.profiler.trace", path=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by the extension type of an event's stats
        planes = list(jax.profiler.ProfileData.from_file(str(files[-1])).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        kernels = [kernel for plane in devices for kernel in _device_kernels(plane)]
        if not kernels:
            kernels = [kernel for plane in planes if plane.name == "/host:CPU" for kernel in _host_kernels(plane)]
    if not kernels:
        raise SMCDError(
            f"{files[-1]}: the profile has no kernel; run at least one step while it is recorded", path=files[-1]
        )
    return sorted(kernels, key=lambda kernel: kernel.start_ns)


def _device_kernels(plane: Any) -> Iterator[Kernel]:
    lines = list(plane.lines)
    streams = [line for line in lines if line.name.startswith("Stream")]
    for line in streams or [line for line in lines if line.name == "XLA Ops"]:
        yield from _events(line, only_operations=False)


def _host_kernels(plane: Any) -> Iterator[Kernel]:
    for line in plane.lines:
        yield from _events(line, only_operations=True)


def _events(line: Any, *, only_operations: bool) -> Iterator[Kernel]:
    for event in line.events:
        operation = str(dict(event.stats).get("hlo_op", ""))
        if (only_operations and not operation) or _CONTAINERS.match(event.name) or event.duration_ns <= 0:
            continue
        yield Kernel(event.name, event.start_ns, event.duration_ns, operation)


def summarize(
    kernels: Sequence[Kernel], steps: int, *, fusions: Mapping[str, str] | None = None, top: int = 12
) -> ProfileSummary:
    """Returns launches, time by kind, and gaps.

    Args:
        kernels: Kernels of the profile; at least one.
        steps: Number of steps in the profile.
        fusions: Known kinds by name of HLO operation, from `fusion_kinds`.
        top: Number of kernel names to list.
    """
    busy, gaps = _busy_and_gaps(kernels)
    start, end = min(k.start_ns for k in kernels), max(k.start_ns + k.duration_ns for k in kernels)
    known = fusions or {}
    by_kind = _totals((known.get(k.operation) or kind_of(k.name, k.operation), k) for k in kernels)
    by_name = _totals((re.sub(r"(?:[._]\d+)+$", "", kernel.name), kernel) for kernel in kernels)
    costly = sorted(by_name, key=lambda name: -by_name[name].milliseconds)[:top]
    return ProfileSummary(
        steps=steps,
        launches=len(kernels),
        window_ms=(end - start) / 1e6,
        busy_ms=busy / 1e6,
        gaps=len(gaps),
        longest_gap_ms=max(gaps, default=0.0) / 1e6,
        kinds={kind: by_kind.get(kind, KindTotal(0, 0.0)) for kind in KINDS},
        top={name: by_name[name] for name in costly},
    )


def _busy_and_gaps(kernels: Sequence[Kernel]) -> tuple[float, list[float]]:
    """Returns the nanoseconds covered by kernels and the lengths of the gaps between them."""
    busy, gaps, end = 0.0, [], None
    for kernel in sorted(kernels, key=lambda kernel: kernel.start_ns):
        stop = kernel.start_ns + kernel.duration_ns
        if end is not None and kernel.start_ns > end:
            gaps.append(kernel.start_ns - end)
        busy += max(0.0, stop - (kernel.start_ns if end is None else max(kernel.start_ns, end)))
        end = stop if end is None else max(end, stop)
    return busy, gaps


def _totals(named: Iterable[tuple[str, Kernel]]) -> dict[str, KindTotal]:
    launches: collections.Counter[str] = collections.Counter()
    nanoseconds: collections.Counter[str] = collections.Counter()
    for name, kernel in named:
        launches[name] += 1
        nanoseconds[name] += kernel.duration_ns
    return {name: KindTotal(launches[name], nanoseconds[name] / 1e6) for name in launches}


def table(summary: ProfileSummary) -> str:
    """Returns a table of one step: one line per kind of kernel, then the gaps and the names with the most time."""
    per_step = lambda number: number / summary.steps  # noqa: E731
    busy = sum(total.milliseconds for total in summary.kinds.values())
    lines = [f"{'kernels of a step':<26}{'launches':>10}{'ms':>10}{'share':>8}"]
    for kind, total in summary.kinds.items():
        lines.append(_line(kind, per_step(total.launches), per_step(total.milliseconds), total.milliseconds / busy))
    lines.append(_line("all kernels", per_step(summary.launches), per_step(busy), 1.0))
    share = summary.gap_ms / summary.window_ms
    lines.append(_line("gaps between kernels", per_step(summary.gaps), per_step(summary.gap_ms), share))
    lines.append(f"longest gap {summary.longest_gap_ms:.3g} ms; gaps are given as a share of the step time")
    for name, total in summary.top.items():
        lines.append(
            f"  {per_step(total.milliseconds):9.3f} ms in {per_step(total.launches):7.1f} launches  {name[:80]}"
        )
    return "\n".join(lines)


def _line(name: str, launches: float, milliseconds: float, share: float) -> str:
    return f"{name:<26}{launches:>10.1f}{milliseconds:>10.3f}{share:>8.1%}"
