"""A roll call over plain sockets: all processes of a run meet at the coordinator's port before JAX uses it.

`jax.distributed.initialize` aborts the whole process (SIGABRT, or a fault where the port is taken) when a peer does not
come. Here nobody starts it before everybody is known to be there, and who is missing is said in one line.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import selectors
import socket
import time

from smcd_jax.errors import SMCDError

_MARK = "smcd_rendezvous"
_RETRY_SECONDS = 0.2
_LONGEST_LINE = 4096  # bytes; who sends more is not one of us
_GRACE_SECONDS = 2.0  # for the last word to all


def wait_for_all(coordinator: str, *, process_id: int, num_processes: int, timeout: float) -> None:
    """Returns when all processes of the run are at the coordinator; its port is free again then.

    Args:
        coordinator: HOST:PORT of process 0, as every process reaches it.
        process_id: of this process, 0 to num_processes - 1.
        num_processes: of the run.
        timeout: seconds until it gives up.

    Raises:
        SMCDError: who is missing or came twice, that the port is taken, or that the address leads nowhere.
    """
    deadline = time.monotonic() + timeout
    if process_id == 0:
        _Register(coordinator, num_processes, timeout=timeout, deadline=deadline).take()
    else:
        _answer(coordinator, process_id=process_id, num_processes=num_processes, timeout=timeout, deadline=deadline)


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT or [IPV6]:PORT.

    Raises:
        SMCDError: it is neither.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SMCDError(f"coordinator {address!r}: write HOST:PORT, with a port of 1 to 65535")
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT names the very host that reads it."""
    host = split_address(address)[0]
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() in ("localhost", "localhost.localdomain", "ip6-localhost")


def _loopback_hint(coordinator: str) -> str:
    if not is_loopback(coordinator):
        return ""
    return f"; {split_address(coordinator)[0]} is each host's own: over several hosts give one that all of them reach"


class _Register:
    """Process 0's side: a listener that collects greetings until all are there, then says to all that it may go on."""

    def __init__(self, coordinator: str, num_processes: int, *, timeout: float, deadline: float):
        self._coordinator = coordinator
        self._num_processes = num_processes
        self._timeout = timeout
        self._deadline = deadline
        self._lines: dict[socket.socket, bytes] = {}  # what each open connection has sent so far
        self._present: dict[int, socket.socket] = {}
        self._came: set[int] = set()  # also those who have left since, their own time being up

    def take(self) -> None:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(self._listen())
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(listener, selectors.EVENT_READ)
            try:
                self._collect(listener, selector, stack)
            except SMCDError as error:
                self._tell_all(str(error))
                raise
            self._tell_all(None)

    def _listen(self) -> socket.socket:
        port = split_address(self._coordinator)[1]
        both = socket.has_dualstack_ipv6()
        try:
            listener = socket.create_server(
                ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
            )
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise SMCDError(
                f"process 0 cannot listen on port {port} of this host ({reason}): another program or run holds it; end "
                "that, or give all processes another --coordinator port"
            ) from None
        listener.setblocking(False)
        return listener

    def _collect(self, listener: socket.socket, selector: selectors.BaseSelector, stack: contextlib.ExitStack) -> None:
        # Process 0 comes to its own address as the others do, so that an address of another host shows.
        own: socket.socket | None = None
        reason: OSError | None = None
        while len(self._present) < self._num_processes:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise SMCDError(self._who_is_missing(reason if own is None else None))
            if own is None:
                try:
                    own = stack.enter_context(_connect(self._coordinator, min(remaining, 1.0)))
                    own.sendall(_message(process_id=0, num_processes=self._num_processes))
                except OSError as error:
                    own, reason = None, error
            for key, _ in selector.select(min(remaining, _RETRY_SECONDS)):
                if key.fileobj is listener:
                    self._accept(listener, selector, stack)
                else:
                    self._read(key.fileobj, selector)

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector, stack: contextlib.ExitStack) -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            connection, _ = listener.accept()
            stack.enter_context(connection)
            connection.setblocking(False)
            self._lines[connection] = b""
            selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            received = connection.recv(_LONGEST_LINE)
        except OSError:
            received = b""
        self._lines[connection] += received
        line = self._lines[connection]
        stranger = b"\n" in line and _parse(line) is None
        # who left may come again; a stranger's call is no one's
        if not received or stranger or len(line) > _LONGEST_LINE:
            selector.unregister(connection)
            connection.close()
            del self._lines[connection]
            self._present = {who: other for who, other in self._present.items() if other is not connection}
        elif b"\n" in line:
            self._enter(connection, _parse(line) or {})

    def _enter(self, connection: socket.socket, greeting: dict[str, object]) -> None:
        who, count = greeting.get("process_id"), greeting.get("num_processes")
        if count != self._num_processes:
            raise SMCDError(
                f"process {who} at {self._coordinator} counts {count} processes and process 0 counts "
                f"{self._num_processes}: give all the same --num_processes, and each run its own port"
            )
        if not isinstance(who, int) or self._present.get(who, connection) is not connection:
            raise SMCDError(
                f"two processes came to {self._coordinator} as process {who} of {count}: give each its own "
                f"--process_id (0 to {self._num_processes - 1}), and each run its own port"
            )
        self._present[who] = connection
        self._came.add(who)

    def _who_is_missing(self, unreachable: OSError | None) -> str:
        if unreachable is not None:
            return (
                f"process 0 does not reach itself at the coordinator's address {self._coordinator} "
                f"({_why(unreachable)}): process 0 must run on that host"
            )
        missing = [who for who in range(self._num_processes) if who not in self._came]
        if not missing:
            left = sorted(self._came - self._present.keys())
            return f"process {left[0]} came to {self._coordinator} and left before all were there: its own log says why"
        if 0 in missing:
            return (
                f"the coordinator's address {self._coordinator} leads to another program than process 0: process 0 "
                "must run on that host"
            )
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        port = split_address(self._coordinator)[1]
        return (
            f"{len(self._came)} of {self._num_processes} processes came to {self._coordinator} within "
            f"{self._timeout:g} s; missing: process {shown}. Start them all with the same --coordinator and "
            f"--num_processes, and let port {port} of this host through{_loopback_hint(self._coordinator)}"
        )

    def _tell_all(self, fault: str | None) -> None:
        """The others close first: so the port is at once free for JAX."""
        deadline = time.monotonic() + _GRACE_SECONDS
        for connection in self._lines:
            with contextlib.suppress(OSError):
                connection.settimeout(_GRACE_SECONDS)
                connection.sendall(_message(fault=fault))
                connection.shutdown(socket.SHUT_WR)
        for who, connection in self._present.items():
            if who:  # process 0's own end closes with the rest
                with contextlib.suppress(OSError):
                    connection.settimeout(max(deadline - time.monotonic(), 0.01))
                    connection.recv(1)


def _answer(coordinator: str, *, process_id: int, num_processes: int, timeout: float, deadline: float) -> None:
    """The side of all other processes: comes, says who it is, and waits for the word to go on."""
    reason = "no answer"
    while (remaining := deadline - time.monotonic()) > 0:
        connection = None
        try:
            with _connect(coordinator, min(remaining, 2.0)) as connection:
                connection.sendall(_message(process_id=process_id, num_processes=num_processes))
                word = _read_line(connection, deadline)
        except OSError as error:
            reason = _why(error) if connection is None else "no word from there"
        else:
            if word is not None and "fault" in word:
                if word["fault"]:
                    raise SMCDError(str(word["fault"]))
                return
            reason = "what answers there is not process 0 of this run"
        time.sleep(max(min(_RETRY_SECONDS, deadline - time.monotonic()), 0))
    if reason == "no word from there":
        raise SMCDError(
            f"process {process_id} of {num_processes} came to {coordinator} and had no word to go on within "
            f"{timeout:g} s: another process is missing (process 0 says which), or another program holds that port"
        )
    raise SMCDError(
        f"process {process_id} of {num_processes} did not reach process 0 at {coordinator} within {timeout:g} s "
        f"({reason}): start process 0 there, or mend --coordinator{_loopback_hint(coordinator)}"
    )


def _connect(coordinator: str, timeout: float) -> socket.socket:
    return socket.create_connection(split_address(coordinator), timeout=timeout)


def _read_line(connection: socket.socket, deadline: float) -> dict[str, object] | None:
    line = b""
    while b"\n" not in line and len(line) <= _LONGEST_LINE:
        connection.settimeout(max(deadline - time.monotonic(), 0.01))
        received = connection.recv(_LONGEST_LINE)
        if not received:
            return None
        line += received
    return _parse(line)


def _message(**content: object) -> bytes:
    return json.dumps({_MARK: 1, **content}).encode() + b"\n"


def _parse(line: bytes) -> dict[str, object] | None:
    try:
        content = json.loads(line.split(b"\n", 1)[0])
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.get(_MARK) == 1 else None


def _why(error: OSError) -> str:
    return "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
