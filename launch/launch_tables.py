"""Tables of launches for docs/benchmarks.md, from the JSON files of `smcd bench launches`.

python launch/launch_tables.py BEFORE.json AFTER.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROWS = {
    "per_step": "a guided step",
    "outside": "once per call, before its first step",
}
FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"


def table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Returns launches and bytes written before and after, as a Markdown table: totals, then kinds."""
    lines = ["| launches | before | GB | now | GB |", "|---|---|---|---|---|"]
    lines += [_line(text, before[name], after[name]) for name, text in ROWS.items()]
    kinds = sorted({*before["by_kind"], *after["by_kind"]}, key=lambda kind: (-_count(before, after, kind), kind))
    nothing = {"count": 0, "written_bytes": 0}
    for kind in kinds:
        parts = (report["by_kind"].get(kind, nothing) for report in (before, after))
        lines.append(_line(f"`{kind}`", *parts))
    return "\n".join(lines)


def published() -> str:
    """Returns the table of docs/benchmarks.md."""
    names = ("launches_h100_before.json", "launches_h100.json")
    return table(*(json.loads((FIGURES / name).read_text(encoding="utf-8")) for name in names))


def _count(before: Mapping[str, Any], after: Mapping[str, Any], kind: str) -> int:
    return sum(report["by_kind"].get(kind, {}).get("count", 0) for report in (before, after))


def _line(text: str, before: Mapping[str, int], after: Mapping[str, int]) -> str:
    cells = [f"{part['count']} | {part['written_bytes'] / 1e9:.2f}" for part in (before, after)]
    return f"| {text} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table of two files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    print(table(*(json.loads(file.read_text(encoding="utf-8")) for file in (args.before, args.after))))


if __name__ == "__main__":
    main()
