"""`smcd compare`: compares two evaluations of one list clip by clip, with a paired bootstrap, on an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from smcd_jax.cli.console import result
from smcd_jax.errors import SMCDError

_EPILOG = """\
examples:
  smcd prepare sprites --output records --option train_clips=8 --option val_clips=4
  smcd evaluate --model tiny --data records --split val --metrics psnr-first --output eval/four \\
      --num_inference_steps 4
  smcd evaluate --model tiny --data records --list eval/four/list.json --metrics psnr-first --output eval/two \\
      --num_inference_steps 2
  smcd compare eval/four eval/two --output four_two.html"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd compare`."""
    parser.epilog = _EPILOG
    parser.add_argument("first", metavar="A", type=Path, help="output folder of a run of smcd evaluate")
    parser.add_argument(
        "second",
        metavar="B",
        type=Path,
        help="output folder of another run with the same list; differences are B - A",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="HTML page to write; default: A_B.html, after the names of the folders",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the table and writes the page."""
    from smcd_jax.evaluation.report.compare import compare, comparison_lines, write_comparison
    from smcd_jax.evaluation.report.results import read_results

    folders = args.first.absolute(), args.second.absolute()
    path = args.output or Path(f"{folders[0].name}_{folders[1].name}.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise SMCDError(f"--output must be a name that ends in .html, got {path}", argument="output", path=path)
    results = read_results(folders[0]), read_results(folders[1])
    differences = compare(*results)
    for line in comparison_lines(differences):
        result(line)
    result(f"wrote {write_comparison(path, folders, results, differences)}")
    return 0
