"""What a compiled program moves between devices: its collectives, counted from the compiler's text (HLO)."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
# An asynchronous collective is two instructions; the first has the shapes. Longer names first: one ends in another.
_COLLECTIVE = re.compile(rf" ({'|'.join(sorted(KINDS, key=len, reverse=True))})(-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LISTS = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)(?:e\d+m\d+\w*)?)\[([\d,<= ]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*?[\s)}]([a-z][a-z\-]*)\((.*)")


Instructions = dict[str, tuple[str, str]]  # by name: what it does, and the text from its operands on


class Collective(NamedTuple):
    """Collectives of one kind, of one execution of the program.

    Attributes:
        count: how often one runs.
        payload_bytes: size of the whole arrays that one device takes part in gathering, summing or passing on.
        moved_bytes: that one device sends, as a ring does it: (g - 1) / g of the payload among g devices, twice that
            for all-reduce, and the payload itself where a device passes an array on.
    """

    count: int
    payload_bytes: int
    moved_bytes: int

    def plus(self, other: Collective, times: int = 1) -> Collective:
        """Both together, the other several times."""
        return Collective(*(a + times * b for a, b in zip(self, other, strict=True)))


NONE = Collective(0, 0, 0)


class CollectiveReport(NamedTuple):
    """Collectives by kind; ``unknown_loops`` loops hold some and do not say how often they run: they count once."""

    by_kind: dict[str, Collective]
    unknown_loops: int

    @property
    def total(self) -> Collective:
        """All kinds together."""
        total = NONE
        for part in self.by_kind.values():
            total = total.plus(part)
        return total


def collective_report(hlo: str) -> CollectiveReport:
    """The collectives of a compiled program, loops counted as often as they run.

    Args:
        hlo: text of `jax.stages.Compiled.as_text`, whose shapes are those of one device.
    """
    devices = _count_of(hlo, "num_partitions") * _count_of(hlo, "replica_count")
    entry, computations = _computations(hlo)
    instructions = functools.cache(lambda name: _instructions(computations[name]))
    times = dict.fromkeys(computations, 0)
    times[entry] = 1
    by_kind, unknown = dict.fromkeys(KINDS, NONE), 0
    for name in reversed(computations):  # the text has each computation before those that call it
        for line in computations[name]:
            found = _collective(line, devices)
            if found:
                by_kind[found[0]] = by_kind[found[0]].plus(found[1], times[name])
            for role, called in _called(line):
                repeats = _trips(line, name, instructions) if role == "body" else 1
                times[called] += times[name] * (repeats or 1)
                unknown += repeats is None and _communicates(called, computations)
    return CollectiveReport({kind: use for kind, use in by_kind.items() if use.count}, unknown)


def _computations(hlo: str) -> tuple[str, dict[str, list[str]]]:
    """The name of the one that runs first, and the lines of each."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        header = None if line.startswith(" ") else _COMPUTATION.match(line)
        if header:
            lines = found[header[2]] = []
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    return entry, found


def _called(line: str) -> Iterator[tuple[str, str]]:
    """Computations that an instruction runs, and as what."""
    if "=%" in line or "to_apply=" in line:
        yield from _CALLED.findall(line)
    if "_computations={" in line:
        for names in _CALLED_LISTS.findall(line):
            yield from (("branch", called.strip().lstrip("%")) for called in names.split(","))


def _communicates(name: str, computations: dict[str, list[str]]) -> bool:
    return any(
        _COLLECTIVE.search(line) or any(_communicates(called, computations) for _, called in _called(line))
        for line in computations[name]
    )


def _trips(line: str, caller: str, instructions: Callable[[str], Instructions]) -> int | None:
    """How often a loop runs; None where that is not to be seen.

    Most loops say it. Those the compiler makes itself, to compute on one part of an array while the next is on its way,
    do not: they count a scalar from a constant in constant steps up to a constant.
    """
    said = _TRIPS.search(line)
    if said:
        return int(said[1])
    parts = dict(_CALLED.findall(line))
    here, condition, body = map(instructions, (caller, parts["condition"], parts["body"]))
    test = next((text for kind, text in condition.values() if kind == "compare" and "direction=LT" in text), None)
    if test is None:
        return None
    index = re.search(r"index=(\d+)", condition.get(_operand(test, 0), ("", ""))[1])
    stop = _constant(_operand(test, 1), condition)
    if index is None or stop is None:
        return None
    start = _constant(_operand(here[_operand(_after(line, "while("), 0)][1], int(index[1])), here)
    ends = next(text for kind, text in reversed(list(body.values())) if kind == "tuple")
    kind, sum_of = body.get(_operand(ends, int(index[1])), ("", ""))
    if kind == "copy":
        kind, sum_of = body.get(_operand(sum_of, 0), ("", ""))
    step = _constant(_operand(sum_of, 1), body) if kind == "add" else None
    return math.ceil((stop - start) / step) if step and start is not None else None


def _instructions(lines: list[str]) -> Instructions:
    matches = filter(None, map(_INSTRUCTION.match, lines))
    return {match[1]: (match[2], match[3]) for match in matches}


def _operand(text: str, index: int) -> str:
    """The name of an operand."""
    names = re.sub(r"/\*.*?\*/", "", text[: text.index(")")]).split(",")
    return names[index].split()[-1].lstrip("%") if index < len(names) else ""


def _constant(name: str, instructions: Instructions) -> int | None:
    kind, text = instructions.get(name, ("", ""))
    if kind in ("copy", "convert", "bitcast"):
        return _constant(_operand(text, 0), instructions)
    value = re.match(r"(\d+)\)", text) if kind == "constant" else None
    return int(value[1]) if value else None


def _after(line: str, word: str) -> str:
    return line[line.index(word) + len(word) :]


def _collective(line: str, devices: int) -> tuple[str, Collective] | None:
    match = _COLLECTIVE.search(line) if "replica_groups=" in line or "source_target_pairs=" in line else None
    if match is None:
        return None
    kind, shape = match[1], line[line.index(" = ") + 3 : match.start()]
    if match[2] and kind in ("all-gather", "collective-permute"):
        shape = _top_level(shape)[1]  # operands, results, and what the compiler keeps beside them
    size = _bytes(shape)
    if kind in ("collective-permute", "collective-broadcast"):
        return kind, Collective(1, size, size)
    group = _group_size(line, devices)
    if group < 2:
        return None
    size *= group if kind == "reduce-scatter" else 1
    rounds = 2 if kind == "all-reduce" else 1
    return kind, Collective(1, size, round(rounds * size * (group - 1) / group))


def _bytes(shape: str) -> int:
    bits = 0
    for name, width, sizes in _ARRAY.findall(shape):
        count = math.prod(int(size.strip(" <=")) for size in sizes.split(",") if size.strip())
        bits += count * (8 if name == "pred" else int(width))
    return math.ceil(bits / 8)


def _top_level(shape: str) -> list[str]:
    """The parts of a tuple's shape."""
    parts, depth, start = [], 0, 1
    for index, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            parts.append(shape[start:index])
            start = index + 1
    return parts


def _group_size(line: str, devices: int) -> int:
    """How many devices take part together; the text has three ways to say it."""
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
