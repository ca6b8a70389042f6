"""The pictures and tracks that come with this package, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

EXAMPLES = ("crossing", "rocket", "sprite", "winds")


def example_file(path: Path, file: str) -> Path:
    """Returns ``path``, or the file of a shipped example if ``path`` does not exist and names one.

    Args:
        path: Path given by the user, whose last part may be the name of an example.
        file: "img.png" or "tracks.json".
    """
    if path.name in EXAMPLES and not path.exists():
        return Path(str(resources.files("smcd_jax") / "assets" / "examples" / path.name / file))
    return path
