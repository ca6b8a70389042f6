"""Communication of a compiled program: its collectives, counted in the HLO text of the compiler.

The text is parsed here because JAX 0.10 has no structured form of it. `jax.stages.Compiled.cost_analysis` reports no
communication. jaxlib's ``HloModule`` lists instructions with their opcode and operands, but not their shapes, replica
groups, called computations, constants or trip counts. The serialized ``HloModuleProto`` has all of these, but its
Python classes exist only inside TensorFlow.
"""

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
# An asynchronous collective consists of two instructions, of which the first has the shapes. Longer names come first
# because "all-to-all" is also the end of "ragged-all-to-all".
_COLLECTIVE = re.compile(rf" ({'|'.join(sorted(KINDS, key=len, reverse=True))})(-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LISTS = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)(?:e\d+m\d+\w*)?)\[([\d,<= ]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*?[\s)}]([a-z][a-z\-]*)\((.*)")


Instructions = dict[str, tuple[str, str]]  # name -> (opcode, text from the operands to the end of the line)


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
    entry, computations = _computations(hlo)
    instructions = functools.cache(lambda name: _instructions(computations[name]))
    times = dict.fromkeys(computations, 0)
    times[entry] = 1
    by_kind, unknown = dict.fromkeys(KINDS, NONE), 0
    for name in reversed(computations):  # the text defines each computation before its callers
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
    """Returns the name of the entry computation, and the lines of each computation by name."""
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
    """Yields (role, name) of the computations that an instruction calls."""
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
    """Returns the trip count of a loop, or None if it is unknown.

    Most loops state it. Loops that the compiler creates to overlap computation with communication do not; they count a
    scalar from a constant, in constant steps, up to a constant.
    """
    stated = _TRIPS.search(line)
    if stated:
        return int(stated[1])
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
    kind, operands = body.get(_operand(ends, int(index[1])), ("", ""))
    if kind == "copy":
        kind, operands = body.get(_operand(operands, 0), ("", ""))
    step = _constant(_operand(operands, 1), body) if kind == "add" else None
    return math.ceil((stop - start) / step) if step and start is not None else None


def _instructions(lines: list[str]) -> Instructions:
    matches = filter(None, map(_INSTRUCTION.match, lines))
    return {match[1]: (match[2], match[3]) for match in matches}


def _operand(text: str, index: int) -> str:
    """Returns the name of an operand, or an empty string if there are fewer."""
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
        shape = _top_level(shape)[1]  # (operands, results, compiler-internal values)
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
    """Returns the element shapes of a tuple shape."""
    parts, depth, start = [], 0, 1
    for index, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            parts.append(shape[start:index])
            start = index + 1
    return parts


def _group_size(line: str, devices: int) -> int:
    """Returns the number of devices per replica group, which the text writes in three forms."""
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
