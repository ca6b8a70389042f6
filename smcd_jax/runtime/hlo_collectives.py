"""Communication of a compiled program: its collectives, counted in the HLO text of the compiler."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from smcd_jax.runtime.hlo_text import called, parse, shape_bytes

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
# An asynchronous collective consists of two instructions, of which the first has the shapes. Longer names come first
# because "all-to-all" is also the end of "ragged-all-to-all".
_COLLECTIVE = re.compile(rf" ({'|'.join(sorted(KINDS, key=len, reverse=True))})(-start)?\(")


class Collective(NamedTuple):
    """Collectives of one kind in one execution of the program.

    Attributes:
        count: Number of executions.
        payload_bytes: Total size of the complete arrays that a device gathers, reduces or forwards.
        moved_bytes: Bytes that a device sends with a ring algorithm among g devices: (g - 1) / g of the payload, twice
            that for all-reduce, and the whole payload for permutes and broadcasts.
    """

    count: int
    payload_bytes: int
    moved_bytes: int

    def plus(self, other: Collective, times: int = 1) -> Collective:
        """Returns the sum of this and ``times`` executions of another."""
        return Collective(*(a + times * b for a, b in zip(self, other, strict=True)))


NONE = Collective(0, 0, 0)


class CollectiveReport(NamedTuple):
    """Collectives of a program.

    Attributes:
        by_kind: Collectives by kind, only those that occur.
        unknown_loops: Number of loops with collectives whose trip count is unknown; their bodies count once.
    """

    by_kind: dict[str, Collective]
    unknown_loops: int

    @property
    def total(self) -> Collective:
        """Sum over all kinds."""
        total = NONE
        for part in self.by_kind.values():
            total = total.plus(part)
        return total


def collective_report(hlo: str) -> CollectiveReport:
    """Returns the collectives of a compiled program; those in a loop count once per iteration.

    Args:
        hlo: Text from `jax.stages.Compiled.as_text`, whose shapes are per device.
    """
    devices = _count_of(hlo, "num_partitions") * _count_of(hlo, "replica_count")
    program = parse(hlo)
    by_kind, unknown = dict.fromkeys(KINDS, NONE), 0
    for name, lines in program.computations.items():
        for line in lines:
            found = _collective(line, devices)
            if found:
                by_kind[found[0]] = by_kind[found[0]].plus(found[1], program.executions[name])
    for body, trips in program.loops.items():
        unknown += trips is None and _communicates(body, program.computations)
    return CollectiveReport({kind: use for kind, use in by_kind.items() if use.count}, unknown)


def _communicates(name: str, computations: dict[str, list[str]]) -> bool:
    return any(
        _COLLECTIVE.search(line) or any(_communicates(called, computations) for _, called in called(line))
        for line in computations[name]
    )


def _collective(line: str, devices: int) -> tuple[str, Collective] | None:
    match = _COLLECTIVE.search(line) if "replica_groups=" in line or "source_target_pairs=" in line else None
    if match is None:
        return None
    kind, shape = match[1], line[line.index(" = ") + 3 : match.start()]
    if match[2] and kind in ("all-gather", "collective-permute"):
        shape = _top_level(shape)[1]  # (operands, results, compiler-internal values)
    size = shape_bytes(shape)
    if kind in ("collective-permute", "collective-broadcast"):
        return kind, Collective(1, size, size)
    group = _group_size(line, devices)
    if group < 2:
        return None
    size *= group if kind == "reduce-scatter" else 1
    rounds = 2 if kind == "all-reduce" else 1
    return kind, Collective(1, size, round(rounds * size * (group - 1) / group))


def _top_level(shape: str) -> list[str]:
    """Returns the element shapes of a tuple shape."""
    parts, depth, start = [], 0, 1
    for index, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            parts.append(shape[start:index])
            start = index + 1
    return parts


def _group_size(line: str, devices: int) -> int:
    """Returns the number of devices per replica group, which HLO text states in one of three forms."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    table = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    if table:
        return int(table[2])
    listed = re.search(r"replica_groups=\{\{([\d, ]*)\}", line)
    return len(listed[1].split(",")) if listed else devices


def _count_of(hlo: str, attribute: str) -> int:
    found = re.search(rf"\b{attribute}=(\d+)", hlo[: hlo.find("\n")])
    return int(found[1]) if found else 1
