"""Rendezvous of all processes of a run over plain sockets, before JAX's distributed service starts.

`jax.distributed.initialize` cannot report a failed start. In JAX 0.10 it ends the process from C++, where no Python
exception handler runs: with SIGABRT (exit status 134) when a process is missing, when the coordinator is not reachable
and when two processes have the same id, and with a segmentation fault (139) when the port is taken. Here the processes
meet on the same port first, so that each of these becomes an `SMCDError` of one line within the time limit, and JAX
starts only when every process is present.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import selectors
import socket
import time
from typing import Any

from smcd_jax.errors import SMCDError

_MARK = "smcd_rendezvous"
_RETRY_SECONDS = 0.2
_MAX_LINE_BYTES = 1 << 16  # room for the ids of 10,000 missing processes; other programs that send more are ignored
_RELEASE_SECONDS = 2.0  # time limit for the reply to all processes


def wait_for_all(coordinator: str, *, process_id: int, num_processes: int, timeout: float) -> None:
    """Returns when all processes of the run have connected to the coordinator; the port is free again by then.

    Args:
        coordinator: HOST:PORT of process 0, reachable from every process.
        process_id: Index of this process, 0 to num_processes - 1.
        num_processes: Number of processes in the run.
        timeout: Time limit in seconds.

    Raises:
        SMCDError: A process is missing or has a duplicate id, the port is taken, or the address is wrong.
    """
    deadline = time.monotonic() + timeout
    if process_id == 0:
        _Coordinator(coordinator, num_processes, timeout=timeout, deadline=deadline).run()
    else:
        _join(coordinator, process_id=process_id, num_processes=num_processes, timeout=timeout, deadline=deadline)


def split_address(address: str) -> tuple[str, int]:
    """Returns (host, port) of HOST:PORT or [IPV6]:PORT.

    Raises:
        SMCDError: The text has neither form.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SMCDError(
            f"coordinator must be HOST:PORT with a port from 1 to 65535, got {address!r}",
            argument="coordinator",
            value=address,
        )
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Returns whether HOST:PORT names the local host."""
    host = split_address(address)[0]
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() in ("localhost", "localhost.localdomain", "ip6-localhost")


def _loopback_hint(coordinator: str) -> str:
    if not is_loopback(coordinator):
        return ""
    host = split_address(coordinator)[0]
    return f"; on several hosts use an address that all of them can reach, not {host}, which is local to each host"


class _Coordinator:
    """Process 0: accepts connections until every process has sent its id, then releases all of them."""

    def __init__(self, coordinator: str, num_processes: int, *, timeout: float, deadline: float):
        self._coordinator = coordinator
        self._num_processes = num_processes
        self._timeout = timeout
        self._deadline = deadline
        self._received: dict[socket.socket, bytes] = {}  # bytes received so far, by open connection
        self._present: dict[int, socket.socket] = {}
        self._seen: set[int] = set()  # includes processes that have disconnected, because their own timeout expired

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(self._listen())
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(listener, selectors.EVENT_READ)
            try:
                self._collect(listener, selector, stack)
            except SMCDError as error:
                self._reply_to_all({"message": str(error), "argument": error.argument, "value": error.value})
                raise
            self._reply_to_all(None)

    def _listen(self) -> socket.socket:
        port = split_address(self._coordinator)[1]
        both = socket.has_dualstack_ipv6()
        try:
            listener = socket.create_server(
                ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
            )
        except OSError as error:
            raise self._error(
                f"process 0 cannot listen on port {port} of this host ({os.strerror(error.errno or 0)}): stop the "
                "program that uses the port, or pass another port in --coordinator to all processes"
            ) from None
        listener.setblocking(False)
        return listener

    def _collect(self, listener: socket.socket, selector: selectors.BaseSelector, stack: contextlib.ExitStack) -> None:
        # Process 0 connects to its own address like the others, which reveals whether the address is that of another
        # host.
        own: socket.socket | None = None
        reason: OSError | None = None
        while len(self._present) < self._num_processes:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise self._timeout_error(reason if own is None else None)
            if own is None:
                try:
                    own = stack.enter_context(_connect(self._coordinator, min(remaining, 1.0)))
                    own.sendall(_encode(process_id=0, num_processes=self._num_processes))
                except OSError as error:
                    own, reason = None, error
            for key, _ in selector.select(min(remaining, _RETRY_SECONDS)):
                if key.fileobj is listener:
                    self._accept(listener, selector, stack)
                else:
                    self._read(key.fileobj, selector)

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector, stack: contextlib.ExitStack) -> None:
        with contextlib.suppress(OSError):  # the peer may have disconnected already
            connection, _ = listener.accept()
            stack.enter_context(connection)
            connection.setblocking(False)
            self._received[connection] = b""
            selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            received = connection.recv(_MAX_LINE_BYTES)
        except OSError:
            received = b""
        self._received[connection] += received
        line = self._received[connection]
        foreign = b"\n" in line and _decode(line) is None
        # A process that disconnects may connect again; connections of other programs are closed and ignored.
        if not received or foreign or len(line) > _MAX_LINE_BYTES:
            selector.unregister(connection)
            connection.close()
            del self._received[connection]
            self._present = {index: other for index, other in self._present.items() if other is not connection}
        elif b"\n" in line:
            self._register(connection, _decode(line) or {})

    def _register(self, connection: socket.socket, greeting: dict[str, Any]) -> None:
        index, count = greeting.get("process_id"), greeting.get("num_processes")
        if count != self._num_processes:
            raise SMCDError(
                f"--num_processes must be the same for all processes at {self._coordinator}, got {count} from process "
                f"{index} and {self._num_processes} from process 0; each run needs its own port",
                argument="num_processes",
                value=count,
            )
        if not isinstance(index, int) or self._present.get(index, connection) is not connection:
            raise SMCDError(
                f"--process_id must be unique, from 0 to {self._num_processes - 1}, got {index} from two processes at "
                f"{self._coordinator}; each run needs its own port",
                argument="process_id",
                value=index,
            )
        self._present[index] = connection
        self._seen.add(index)

    def _timeout_error(self, unreachable: OSError | None) -> SMCDError:
        if unreachable is not None:
            return self._error(
                f"process 0 cannot reach its own coordinator address {self._coordinator} ({_reason(unreachable)}); "
                "process 0 must run on that host"
            )
        missing = [index for index in range(self._num_processes) if index not in self._seen]
        if not missing:
            lost = sorted(self._seen - self._present.keys())
            return SMCDError(
                f"process {lost[0]} connected to {self._coordinator} and disconnected before all processes were "
                "present; see its log",
                argument="process_id",
                value=lost,
            )
        if 0 in missing:
            return self._error(
                f"another program answers at the coordinator address {self._coordinator}; process 0 must run on that "
                "host"
            )
        listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        port = split_address(self._coordinator)[1]
        return SMCDError(
            f"{len(self._seen)} of {self._num_processes} processes connected to {self._coordinator} within "
            f"{self._timeout:g} s; missing: process {listed}. Start all processes with the same --coordinator and "
            f"--num_processes, and open port {port} of this host{_loopback_hint(self._coordinator)}",
            argument="process_id",
            value=missing,
        )

    def _error(self, message: str) -> SMCDError:
        return SMCDError(message, argument="coordinator", value=self._coordinator)

    def _reply_to_all(self, fault: dict[str, Any] | None) -> None:
        """Sends the outcome. The other processes close their connections first, so the port is free for JAX at once."""
        deadline = time.monotonic() + _RELEASE_SECONDS
        for connection in self._received:
            with contextlib.suppress(OSError):
                connection.settimeout(_RELEASE_SECONDS)
                connection.sendall(_encode(fault=fault))
                connection.shutdown(socket.SHUT_WR)
        for index, connection in self._present.items():
            if index:  # process 0's connection to itself is closed later, with the others
                with contextlib.suppress(OSError):
                    connection.settimeout(max(deadline - time.monotonic(), 0.01))
                    connection.recv(1)


def _join(coordinator: str, *, process_id: int, num_processes: int, timeout: float, deadline: float) -> None:
    """Runs in every process but 0: connects, sends its id, and waits for the reply."""
    reason, no_reply = "no answer", False
    while (remaining := deadline - time.monotonic()) > 0:
        connection = reply = None
        try:
            with _connect(coordinator, min(remaining, 2.0)) as connection:
                connection.sendall(_encode(process_id=process_id, num_processes=num_processes))
                reply = _read_line(connection, deadline)
        except OSError as error:
            reason, no_reply = _reason(error), connection is not None
        else:
            if reply is not None and "fault" in reply:
                fault = reply["fault"]
                if fault is None:
                    return
                raise SMCDError(fault["message"], argument=fault["argument"], value=fault["value"])
            reason, no_reply = "another program answers there", False
        time.sleep(max(min(_RETRY_SECONDS, deadline - time.monotonic()), 0))
    if no_reply:
        raise SMCDError(
            f"process {process_id} of {num_processes} connected to {coordinator} but got no reply within {timeout:g} "
            "s; another process is missing (see the log of process 0), or another program uses that port",
            argument="coordinator",
            value=coordinator,
        )
    raise SMCDError(
        f"process {process_id} of {num_processes} could not reach process 0 at {coordinator} within {timeout:g} s "
        f"({reason}); start process 0 on that host, or correct --coordinator{_loopback_hint(coordinator)}",
        argument="coordinator",
        value=coordinator,
    )


def _connect(coordinator: str, timeout: float) -> socket.socket:
    return socket.create_connection(split_address(coordinator), timeout=timeout)


def _read_line(connection: socket.socket, deadline: float) -> dict[str, Any] | None:
    line = b""
    while b"\n" not in line and len(line) <= _MAX_LINE_BYTES:
        connection.settimeout(max(deadline - time.monotonic(), 0.01))
        received = connection.recv(_MAX_LINE_BYTES)
        if not received:
            return None
        line += received
    return _decode(line)


def _encode(**content: object) -> bytes:
    return json.dumps({_MARK: 1, **content}).encode() + b"\n"


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line.split(b"\n", 1)[0])
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.get(_MARK) == 1 else None


def _reason(error: OSError) -> str:
    return "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
