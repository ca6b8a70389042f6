"""Startup and shutdown of the studio server."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from smcd_jax.errors import SMCDError
from smcd_jax.studio.app import make_app
from smcd_jax.studio.guard import LOOPBACK, Access
from smcd_jax.studio.studio import Studio, pipelines_by_name

_CLOSE_SECONDS = 600  # time for the running step to end, or for files to be written


def serve(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    output: Path,
    open_browser: bool,
    announce: Callable[[str], object],
) -> None:
    """Runs the studio until it is interrupted.

    Args:
        models: Model folders, or names of shipped models.
        host: Name or address to listen on. Unless it is a loopback address, every request needs a token.
        port: Port; 0 for a free one.
        output: Folder of the results.
        open_browser: Whether to open the page in a browser.
        announce: Function that prints a line for the user.

    Raises:
        SMCDError: A model, the port or the output folder cannot be used.
    """
    listening = _listen(host, port)
    with contextlib.closing(listening), contextlib.ExitStack() as stack:
        access = make_access(host)
        studio = Studio(pipelines_by_name(models), output)
        stack.callback(studio.close)
        server = _Server(uvicorn.Config(make_app(studio, access), **_SETTINGS))
        server.before_exit = studio.queue.close
        address = page_address(host, listening.getsockname()[1], access)
        announce(f"the studio is at {address} (results in {studio.results.folder}); Ctrl-C stops it")
        studio.queue.start()
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        _run(server, listening)
        studio.queue.close()
        if not studio.queue.wait_closed(0.5):
            announce("waiting for the running step; Ctrl-C again stops at once")
            studio.queue.wait_closed(_CLOSE_SECONDS)
        announce("the studio has stopped")


def make_access(host: str) -> Access:
    """Returns the access rules of a server on ``host``, with a random token unless it is a loopback address."""
    if host.lower() in LOOPBACK:
        return Access(frozenset(LOOPBACK))
    names = {*LOOPBACK, host.lower(), socket.gethostname().lower()}
    return Access(frozenset(names), any_address=host in ("0.0.0.0", "::"), token=secrets.token_urlsafe(32))


def page_address(host: str, port: int, access: Access) -> str:
    """Returns the address of the page, with the token if there is one."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    with contextlib.suppress(ValueError):
        name = f"[{name}]" if ipaddress.ip_address(name).version == 6 else name
    return f"http://{name}:{port}/" + (f"?token={access.token}" if access.token else "")


_SETTINGS: dict[str, Any] = {
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    "lifespan": "off",
    "ws": "none",
    "timeout_graceful_shutdown": 3,
}


class _Server(uvicorn.Server):
    """A server that ends event streams before it waits for open connections."""

    before_exit: Callable[[], object]

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.before_exit()
        super().handle_exit(sig, frame)


def _run(server: uvicorn.Server, listening: socket.socket) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after shutdown
            server.run([listening])
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise SMCDError(f"port must be between 0 and 65535, got {port}", argument="port", value=port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        message = f"host must be a name or an address of this machine, got {host!r}"
        raise SMCDError(message, argument="host", value=host) from error
    if sys.platform != "win32":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        message = f"cannot listen on {host} port {port} ({reason}); choose another --port or --host"
        raise SMCDError(message, argument="port", value=port) from error
    return listening
