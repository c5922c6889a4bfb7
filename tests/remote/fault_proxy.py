"""A proxy before an object store, which does to requests and answers what networks do. It counts what passes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.remote.servers import HOST

_LIMIT = 1 << 20
_READ_BYTES = 64 << 10
_PATIENCE_SECONDS = 60.0
_NO_CONTENT = (204, 304)


@dataclass
class Request:
    """A request that came: its number, from 1 on, its bytes and those of its answer, and what was done to it."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    action: str = ""
    sent_bytes: int = 0
    received_bytes: int = 0

    @property
    def key(self) -> str:
        """What it asks for, without the bucket."""
        return self.path.partition("?")[0].lstrip("/").partition("/")[2]

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type" in self.path


Rule = Callable[[Request], str]


def _as_it_is(_: Request) -> str:
    return ""


class FaultProxy:
    """Passes requests on to a port. `rule` says of each what is done to it, `KIND` or `KIND:NUMBER`:

    refuse:503          not passed on; answered with that status
    rst_before          not passed on; the connection is reset
    cut_request:N       its body is cut after N bytes, and the connection reset
    lose_ack            done; the connection is closed before the answer
    lose_ack_rst        done; the connection is reset before the answer
    ack_as:500          done; answered with that status
    hang                done; the answer never comes
    cut_response:N      done; the answer's body is cut after N bytes
    flip:N              done; a bit of the answer's body is another, in byte N, counted round
    hold_up:N           its body is read up to byte N, and no further
    hold_down:N         done; the answer's body comes up to byte N, and no further

    `applied` is told of requests that the store has answered, before the client is.
    """

    def __init__(self, port: int, rule: Rule = _as_it_is) -> None:
        self.rule = rule
        self.applied: Callable[[Request], object] = _as_it_is
        self.requests: list[Request] = []
        self.holds = threading.Event()
        """Set when a request is held."""
        self._connections = 0
        self._changed = threading.Condition()
        self._never = asyncio.Event()  # a task that waits for what nobody else has is garbage
        self._upstream = port
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0, limit=_LIMIT))
        self._port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self._port}"

    def close(self) -> None:
        """Reset all connections, and stop."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many clients' connections there are."""
        return self._connections

    def wait_for_connections(self, most: int) -> None:
        """Wait until others have ended, and what came by them has gone to the store."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._connections <= most, _PATIENCE_SECONDS)

    def _count(self, change: int) -> None:
        with self._changed:
            self._connections += change
            self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count(1)
        # A client that is killed, or gives up, resets connections at any time.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head, first, headers = await _head(reader)
                method, path, _ = first.split(" ", 2)
                request = Request(len(self.requests) + 1, method, path, headers)
                self.requests.append(request)
                request.action = self.rule(request)
                if not await _Exchange(self, request, head, reader, writer).run():
                    break
        writer.transport.abort()
        self._count(-1)


@dataclass
class _Exchange:
    """One request and its answer."""

    proxy: FaultProxy
    request: Request
    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _kind: str = field(init=False)
    _number: int = field(init=False)

    def __post_init__(self) -> None:
        kind, _, number = self.request.action.partition(":")
        self._kind, self._number = kind, int(number or 0)

    async def run(self) -> bool:
        """Whether the connection goes on."""
        if self._kind == "rst_before":
            return self._reset()
        if self._kind == "hold_up":
            await self.reader.readexactly(self._number)
            return await self._hold()
        body = await self._request_body()
        if self._kind == "refuse":
            return await self._answer(self._number)
        answer = await self._ask(body)
        if answer is None:
            return self._reset()
        self.proxy.applied(self.request)
        return await self._pass_on(*answer)

    async def _request_body(self) -> bytes:
        if "chunked" in self.request.headers.get("transfer-encoding", ""):
            return await _chunked(self.reader)
        body = await self.reader.readexactly(int(self.request.headers.get("content-length", 0)))
        self.request.sent_bytes = len(body)
        return body

    async def _ask(self, body: bytes) -> tuple[bytes, bytes] | None:
        """The head of the answer and its body, as they came; None where the request is cut."""
        reader, writer = await asyncio.open_connection(HOST, self.proxy._upstream, limit=_LIMIT)
        try:
            if self._kind == "cut_request":
                writer.write(self.head + body[: self._number])
                await writer.drain()
                return None
            writer.write(self.head + body)
            await writer.drain()
            head, first, headers = await _head(reader)
            if self.request.method == "HEAD" or int(first.split()[1]) in _NO_CONTENT:
                return head, b""
            if "chunked" in headers.get("transfer-encoding", ""):
                return head, await _chunked(reader)
            return head, await reader.readexactly(int(headers.get("content-length", 0)))
        finally:
            writer.transport.abort()

    async def _pass_on(self, head: bytes, body: bytes) -> bool:
        self.request.received_bytes = len(body)
        if self._kind == "lose_ack":
            self.writer.close()
            return False
        if self._kind == "lose_ack_rst":
            return self._reset()
        if self._kind == "ack_as":
            return await self._answer(self._number)
        if self._kind == "hang":
            return await self._hold()
        if self._kind == "flip" and body:
            at = self._number % len(body)
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        is_cut = self._kind in ("cut_response", "hold_down")
        self.writer.write(head + (body[: self._number] if is_cut else body))
        await self.writer.drain()
        if self._kind == "cut_response":
            return self._reset()
        return await self._hold() if self._kind == "hold_down" else True

    async def _answer(self, status: int) -> bool:
        body = b"<Error><Code>SlowDown</Code></Error>"
        head = f"HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        return True

    async def _hold(self) -> bool:
        """Do nothing for as long as the client waits."""
        self.proxy.holds.set()
        if self._kind == "hold_up":
            await self.proxy._never.wait()
        while await self.reader.read(_READ_BYTES):
            pass
        return False

    def _reset(self) -> bool:
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


async def _head(reader: asyncio.StreamReader) -> tuple[bytes, str, dict[str, str]]:
    """A request's or an answer's head: its bytes, its first line, and its fields."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines if line)
    return head, first, {name.lower(): value.strip() for name, _, value in fields}


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    """A body in chunks, with their frames."""
    found = []
    while True:
        line = await reader.readline()
        size = int(line.partition(b";")[0], 16)
        found += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(found)


@contextlib.contextmanager
def proxied(port: int) -> Iterator[FaultProxy]:
    """A proxy before that port, for the block."""
    proxy = FaultProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
