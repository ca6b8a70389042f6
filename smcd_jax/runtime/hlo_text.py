"""The HLO text of a compiled program: its computations, how often each runs, and the sizes of its arrays.

The text is parsed here because JAX 0.10 has no structured form of it. `jax.stages.Compiled.cost_analysis` reports
neither communication nor launches. jaxlib's ``HloModule`` lists instructions with their opcode and operands, but not
their shapes, replica groups, called computations, constants or trip counts. The serialized ``HloModuleProto`` has all
of these, but its Python classes exist only inside TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LISTS = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)(?:e\d+m\d+\w*)?)\[([\d,<= ]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*?[\s)}]([a-z][a-z\-]*)\((.*)")

Instructions = dict[str, tuple[str, str]]  # name -> (opcode, text from the operands to the end of the line)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A compiled program.

    Attributes:
        entry: Name of the entry computation.
        computations: Lines of each computation by name; each computation comes before its callers.
    """

    entry: str
    computations: dict[str, list[str]]
    _parsed: dict[str, Instructions] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def executions(self) -> dict[str, int]:
        """Number of runs of each computation in one execution of the program; a loop of unknown length counts once."""
        times = dict.fromkeys(self.computations, 0)
        times[self.entry] = 1
        for name in reversed(self.computations):
            for line in self.computations[name]:
                for role, callee in called(line):
                    times[callee] += times[name] * ((self.trips(line, name) if role == "body" else 1) or 1)
        return times

    @functools.cached_property
    def loops(self) -> dict[str, int | None]:
        """The trip count of each loop by the name of its body, None where it is unknown."""
        return {
            callee: self.trips(line, name)
            for name, lines in self.computations.items()
            for line in lines
            for role, callee in called(line)
            if role == "body"
        }

    def instructions(self, name: str) -> Instructions:
        """Returns the instructions of a computation by name."""
        if name not in self._parsed:
            matches = filter(None, map(_INSTRUCTION.match, self.computations[name]))
            self._parsed[name] = {match[1]: (match[2], match[3]) for match in matches}
        return self._parsed[name]

    def trips(self, line: str, caller: str) -> int | None:
        """Returns the trip count of the loop in a line of ``caller``, or None if it is unknown."""
        return _trips(line, caller, self.instructions)


def parse(hlo: str) -> Program:
    """Parses the text that `jax.stages.Compiled.as_text` returns."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        header = None if line.startswith(" ") else _COMPUTATION.match(line)
        if header:
            lines = found[header[2]] = []
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    return Program(entry, found)


def called(line: str) -> Iterator[tuple[str, str]]:
    """Yields (role, name) of the computations that an instruction calls."""
    if "=%" in line or "to_apply=" in line:
        yield from _CALLED.findall(line)
    if "_computations={" in line:
        for names in _CALLED_LISTS.findall(line):
            yield from (("branch", called.strip().lstrip("%")) for called in names.split(","))


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
    index = re.search(r"index=(\d+)", condition.get(operand(test, 0), ("", ""))[1])
    stop = _constant(operand(test, 1), condition)
    if index is None or stop is None:
        return None
    start = _constant(operand(here[operand(_after(line, "while("), 0)][1], int(index[1])), here)
    ends = next(text for kind, text in reversed(list(body.values())) if kind == "tuple")
    kind, operands = body.get(operand(ends, int(index[1])), ("", ""))
    if kind == "copy":
        kind, operands = body.get(operand(operands, 0), ("", ""))
    step = _constant(operand(operands, 1), body) if kind == "add" else None
    return math.ceil((stop - start) / step) if step and start is not None else None


def operand(text: str, index: int) -> str:
    """Returns the name of an operand, or an empty string if there are fewer."""
    names = re.sub(r"/\*.*?\*/", "", text[: text.index(")")]).split(",")
    return names[index].split()[-1].lstrip("%") if index < len(names) else ""


def _constant(name: str, instructions: Instructions) -> int | None:
    kind, text = instructions.get(name, ("", ""))
    if kind in ("copy", "convert", "bitcast"):
        return _constant(operand(text, 0), instructions)
    value = re.match(r"(\d+)\)", text) if kind == "constant" else None
    return int(value[1]) if value else None


def _after(line: str, word: str) -> str:
    return line[line.index(word) + len(word) :]


def shape_bytes(shape: str) -> int:
    """Returns the size in bytes of a shape in HLO notation; that of a tuple is the sum over its elements."""
    bits = 0
    for name, width, sizes in _ARRAY.findall(shape):
        count = math.prod(int(size.strip(" <=")) for size in sizes.split(",") if size.strip())
        bits += count * (8 if name == "pred" else int(width))
    return math.ceil(bits / 8)
