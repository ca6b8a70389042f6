"""Kernels that a compiled program launches and bytes that they write, counted in the HLO text of the compiler."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from smcd_jax.runtime.hlo_text import Program, called, parse, shape_bytes

# Instructions that launch nothing: they name, bundle or reinterpret arrays, or run computations that are counted.
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional"),
        *("after-all", "add-dependency", "partition-id", "replica-id", "opt-barrier", "async-start", "async-update"),
        *("async-done", "copy-done", "all-reduce-done", "all-gather-done", "collective-permute-done"),
    )
)
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?[\s)}])([a-z][a-z\-]*)\((.*)")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_WORKSPACE = re.compile(r", [us]8\[\d+\](?:\{0\})?\)\s*$")  # scratch memory of a library call, not a result
_INVARIANT_KINDS = re.compile(r"transpose|copy|concatenate|convert|slice|pad|reverse")


class Launches(NamedTuple):
    """Launches and the bytes of their results."""

    count: int
    written_bytes: int


@dataclasses.dataclass(frozen=True)
class LaunchReport:
    """Launches of one execution of a program; a loop of unknown length counts once.

    Attributes:
        by_kind: Launches by kind, the most frequent kind first. Kinds are names of library calls, or names that the
            compiler gives to fusions.
        outside: Launches outside of all loops, which are part of ``by_kind``.
        repeated: Launches in loops that only move or convert arrays which do not change in the loop, by name, such as
            a transpose of weights at every step.
        unknown_loops: Number of loops whose trip count is unknown.
    """

    by_kind: dict[str, Launches]
    outside: Launches
    repeated: dict[str, Launches]
    unknown_loops: int

    @property
    def total(self) -> Launches:
        """Sum over all kinds."""
        return _sum(self.by_kind.values())

    @property
    def per_step(self) -> Launches:
        """Launches inside loops; those of one step if the program is a sampler whose loop length is unknown."""
        return Launches(*(a - b for a, b in zip(self.total, self.outside, strict=True)))

    def as_dict(self) -> dict[str, Any]:
        """Returns all figures as JSON values."""
        kinds = {kind: launches._asdict() for kind, launches in self.by_kind.items()}
        totals = {"total": self.total, "outside": self.outside, "per_step": self.per_step}
        return {
            "by_kind": kinds,
            **{name: launches._asdict() for name, launches in totals.items()},
            "repeated": {name: launches._asdict() for name, launches in self.repeated.items()},
            "unknown_loops": self.unknown_loops,
        }


def launch_report(hlo: str) -> LaunchReport:
    """Returns the launches of a compiled program.

    Args:
        hlo: Text from `jax.stages.Compiled.as_text`.
    """
    program = parse(hlo)
    in_loops = _reachable(program, tuple(program.loops))
    counts: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    outside, repeated = Launches(0, 0), {}
    for name in _launching(program):
        times, unchanged = program.executions[name], _unchanged(program, name)
        for label, kind, size, operands in _launches(program.computations[name]):
            counts[kind] += times
            sizes[kind] += times * size
            if name not in in_loops:
                outside = Launches(outside.count + times, outside.written_bytes + times * size)
            elif unchanged and operands and set(operands) <= unchanged and _INVARIANT_KINDS.search(label):
                repeated[label] = Launches(times, times * size)
    by_kind = {kind: Launches(count, sizes[kind]) for kind, count in counts.most_common()}
    return LaunchReport(by_kind, outside, repeated, sum(trips is None for trips in program.loops.values()))


def table(report: LaunchReport) -> str:
    """Returns one line per kind of launch, then the totals."""
    lines = [f"{'launches':>9}{'MB written':>12}  kind"]
    lines += [_line(launches, kind) for kind, launches in report.by_kind.items()]
    lines.append(_line(report.total, "all"))
    lines.append(_line(report.outside, "of these outside of loops"))
    lines.append(_line(_sum(report.repeated.values()), "of these only move values that are constant in their loop"))
    return "\n".join(lines)


def _line(launches: Launches, kind: str) -> str:
    return f"{launches.count:>9}{launches.written_bytes / 1e6:>12.1f}  {kind}"


def _sum(parts: Any) -> Launches:
    total = Launches(0, 0)
    for part in parts:
        total = Launches(total.count + part.count, total.written_bytes + part.written_bytes)
    return total


def _launching(program: Program) -> set[str]:
    """Returns the computations that run on their own: the entry, bodies of loops and branches, and those they call."""
    return _reachable(program, (program.entry,))


def _reachable(program: Program, names: tuple[str, ...]) -> set[str]:
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for line in program.computations[name]:
            match = _LINE.match(line)
            if match and match[3] in ("while", "call", "conditional", "async-start"):
                waiting += [callee for role, callee in called(line) if role != "condition"]
    return found


def _launches(lines: list[str]) -> Iterator[tuple[str, str, int, list[str]]]:
    """Yields name, kind, bytes and operands of each launch in a computation."""
    for line in lines:
        match = _LINE.match(line)
        if not match or match[3] in _FREE:
            continue
        label, shape, opcode, rest = match.groups()
        target = _TARGET.search(line)
        if target:
            kind, shape = target[1], _WORKSPACE.sub(")", shape)
        else:
            kind = _kind(label) if opcode == "fusion" else opcode
        yield label, kind, shape_bytes(shape), re.findall(r"%([\w.\-]+)", rest[: rest.index(")")])


def _kind(label: str) -> str:
    """Returns the name of a fusion without its number and without the suffixes of copies."""
    return re.sub(r"[\d.]+$", "", re.sub(r"\.(?:clone|remat\d*)", "", label))


def _unchanged(program: Program, name: str) -> set[str]:
    """Returns the names of the loop-invariant instructions of a loop's body."""
    if name not in program.loops:
        return set()
    instructions = program.instructions(name)
    root = next(text for kind, text in reversed(list(instructions.values())) if kind == "tuple")
    kept = [part.split()[-1].lstrip("%") for part in re.sub(r"/\*.*?\*/", "", root[: root.index(")")]).split(",")]
    found = set()
    for label, (kind, text) in instructions.items():
        index = re.search(r"index=(\d+)", text) if kind == "get-tuple-element" else None
        kept_as_it_is = index is not None and kept[int(index[1])] == label
        renamed = kind == "bitcast" and text[: text.index(")")].split()[-1].lstrip("%") in found
        if kind == "constant" or kept_as_it_is or renamed:
            found.add(label)
    return found
