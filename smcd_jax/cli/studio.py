"""`smcd studio`: a local page and an HTTP API to draw boxes, preview their motion and make videos."""

from __future__ import annotations

import argparse
from pathlib import Path

from smcd_jax.cli import console
from smcd_jax.errors import SMCDError

_EPILOG = """\
examples:
  smcd studio
  smcd studio --model models/smcd --output videos --port 8000

The page is for this machine only. With another --host every request needs the token of the printed address; the
connection is not encrypted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd studio`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--model",
        action="append",
        metavar="FOLDER",
        help="model folder, or name of a shipped model; may be repeated (default: small and tiny)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port; 0 for a free one (default: 7860)")
    parser.add_argument(
        "--output",
        default="outputs/studio",
        metavar="DIR",
        help="folder of the results, from which the page reads its history (default: outputs/studio)",
    )
    parser.add_argument("--no_browser", action="store_true", help="do not open the page in a browser")


def run(args: argparse.Namespace) -> int:
    """Runs the server until it is interrupted."""
    try:
        from smcd_jax.studio.serve import serve
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "uvicorn", "starlette", "pydantic"):
            raise
        message = f"{error.name} is not installed; run: pip install 'smcd_jax[studio]'"
        raise SMCDError(message, argument="studio", value=error.name) from error
    serve(
        args.model or ["small", "tiny"],
        host=args.host,
        port=args.port,
        output=Path(args.output),
        open_browser=not args.no_browser,
        announce=console.result,
    )
    return 0
