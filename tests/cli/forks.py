"""Runs `casstore` in forks of a process that has imported it and done nothing else, which takes a fifth of the time
that a new process takes. A program of its own, so that its forks have nothing of the tests' process."""

from __future__ import annotations

import json
import os
import pkgutil
import select
import socket
import subprocess
import sys
import time
from importlib import import_module

_REQUEST_BYTES = 1 << 17


def import_all() -> None:
    """Import what casstore imports when it needs it: each fork would take the time for it, and a module that is
    imported while a test has something replaced would keep the replacement."""
    import casstore

    for room in ("cli", "actions", "archive", "catalog", "remote", "storage"):
        for found in pkgutil.walk_packages([f"{casstore.__path__[0]}/{room}"], f"casstore.{room}."):
            if not found.name.endswith((".__main__", ".object_store")):  # obstore has threads, which no fork has
                import_module(found.name)


class Forks:
    """The other process, as who asks it for forks sees it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                # As those of a command whose output is captured.
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

    def run(self, arguments: list[str], environment: dict[str, str], timeout_s: float) -> tuple[int, str, str]:
        """The exit code, and what was written to stdout and stderr, of `casstore` without any input."""
        mask = os.umask(0)
        os.umask(mask)
        request = json.dumps([arguments, environment, os.getcwd(), mask]).encode()
        pipes = [os.pipe(), os.pipe()]
        socket.send_fds(self._socket, [request], [writing for _, writing in pipes])
        for _, writing in pipes:
            os.close(writing)
        pid = int(self._socket.recv(100))
        try:
            out, err = _read_all([reading for reading, _ in pipes], timeout_s)
        except TimeoutError:
            os.kill(pid, 9)
            raise
        finally:
            for reading, _ in pipes:
                os.close(reading)
            code = int(self._socket.recv(100))
        return code, out, err

    def close(self) -> None:
        self._socket.close()
        self._process.communicate()


def _read_all(descriptors: list[int], timeout_s: float) -> list[str]:
    found = dict.fromkeys(descriptors, b"")
    open_ones, until = set(descriptors), time.monotonic() + timeout_s
    while open_ones:
        ready = select.select(open_ones, [], [], max(0, until - time.monotonic()))[0]
        if not ready:
            raise TimeoutError(f"it does not end, and has written {list(found.values())} so far")
        for descriptor in ready:
            data = os.read(descriptor, 1 << 16)
            found[descriptor] += data
            if not data:
                open_ones.discard(descriptor)
    return [data.decode().replace("\r\n", "\n") for data in found.values()]


def _serve(requests: socket.socket) -> None:
    """Answer each request with the process that does it, and with its exit code; returns in each fork."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 2)
        if not request:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            arguments, environment, directory, mask = json.loads(request)
            for target, descriptor in enumerate(descriptors, 1):
                os.dup2(descriptor, target)
                os.close(descriptor)
            requests.close()
            os.environ.clear()
            os.environ.update(environment)
            time.tzset()
            os.chdir(directory)
            os.umask(mask)
            sys.argv[1:] = arguments
            return
        requests.send(b"%d" % pid)
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    from casstore.cli.main import main

    import_all()
    with socket.socket(fileno=int(sys.argv.pop())) as channel:
        _serve(channel)
    main()
