"""The table of launches in docs/benchmarks.md shows the figures in the JSON files next to it."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "launch"))

import launch_tables  # noqa: E402


def test_the_documentation_shows_the_figures_of_the_json_files():
    assert launch_tables.published() in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_the_loop_does_not_move_constant_values():
    report = json.loads((launch_tables.FIGURES / "launches_h100.json").read_text(encoding="utf-8"))
    assert report["repeated"] == {}
    assert report["unknown_loops"] == 1
