"""Records the behaviour that `tests/snapshots/test_snapshots.py` checks.

    python -m tests.snapshots.record              everything
    python -m tests.snapshots.record frames       one of frames, losses, plans, options
    python -m tests.snapshots.record losses scene one case of losses; the others are kept

Record again only if a change of behaviour is intended, and state in the commit which numbers changed and why. After a
rename inside the package, change `tests/snapshots/adapters.py` instead of recording again. The settings are those of
the tests (`tests/conftest.py`): CPU, float32, programs compiled with few optimizations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401  sets the environment before JAX is imported

DATA = Path(__file__).resolve().parent / "data"


def record_frames(cases: list[str]) -> None:
    """Writes the final latents and the frames of each request to its own file."""
    import numpy as np

    from tests.snapshots import adapters, frames

    sample = adapters.open_pipeline()
    for name in cases or frames.CASES:
        latents, video = sample(**frames.request(name))
        np.savez_compressed(DATA / f"frames_{name}.npz", latents=latents.astype(np.float32), frames=video)


def record_losses(cases: list[str]) -> None:
    """Writes the losses and gradient norms of the training steps."""
    from tests.snapshots import losses

    _update("losses", {name: losses.run(name) for name in cases or losses.cases()})


def record_plans(cases: list[str]) -> None:
    """Writes the summaries of the plans."""
    from tests.snapshots import plans

    _update("plans", {name: plans.summary(name) for name in cases or plans.CASES})


def record_options(cases: list[str]) -> None:
    """Writes the options of the commands."""
    from tests.snapshots import options

    found = options.tables()
    _update("options", {name: found[name] for name in cases} if cases else found, replace=not cases)


RECORDERS: dict[str, Callable[[list[str]], None]] = {
    "frames": record_frames,
    "losses": record_losses,
    "plans": record_plans,
    "options": record_options,
}


def read(name: str) -> dict[str, Any]:
    """Returns the content of a recorded JSON file."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def _update(name: str, values: dict[str, Any], *, replace: bool = False) -> None:
    path = DATA / f"{name}.json"
    before = {} if replace or not path.exists() else read(name)
    path.write_text(json.dumps({**before, **values}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Runs the recorders named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=tuple(RECORDERS), help="all by default")
    parser.add_argument("cases", nargs="*", help="all by default")
    args = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    for name in [args.name] if args.name else RECORDERS:
        RECORDERS[name](args.cases)
        print(f"recorded {name} in {DATA}")


if __name__ == "__main__":
    main()
