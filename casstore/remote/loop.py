"""Where requests run: an event loop in a thread of its own, so that Ctrl-C is seen while one is on its way.

obstore's own blocking calls see a signal only when they return, which for a large object on a slow line takes minutes.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from casstore.errors import RemoteError

_T = TypeVar("_T")
# Of processes whose last request had failed one in four was aborted without it; with it none of 60, on a busy machine.
_LEAVE_SECONDS = 0.05


class _Process:
    """Which process has obstore's own threads: the first of these that made a request. They cannot be started again."""

    pid: int | None = None


def _leave() -> None:
    """Let obstore's threads come to an end with what they were about to tell: from those that want to enter the
    interpreter while it ends, Python 3.13 and before take the thread away, at which Rust aborts the process."""
    if os.getpid() == _Process.pid:
        time.sleep(_LEAVE_SECONDS)


atexit.register(_leave)


class RequestLoop:
    """Runs requests for any number of threads. Bound to the process that made it: a forked child must make its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="casstore-remote", daemon=True)
        self._thread.start()

    def run(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """What the request gives. Raises what it raises, and RemoteError in a forked child or after `close`.

        A child whose parent has made no request may open a remote of its own.
        """
        pid = os.getpid()
        _Process.pid = _Process.pid or pid
        if pid != _Process.pid:
            raise RemoteError(
                f"{self._name} cannot be used in this process, which was forked from one that had used a remote: the "
                "threads that its requests need are not there. Fork before a remote is first used, or start processes "
                "by `spawn` (multiprocessing.set_start_method('spawn'))"
            )
        if pid != self._pid:
            raise RemoteError(
                f"{self._name} was opened before this process was forked, and its connections are the parent's; open "
                "the remote again in the child"
            )
        with self._lock:
            if self._is_closed:
                raise RemoteError(f"{self._name} has been closed")
            future = asyncio.run_coroutine_threadsafe(_begun(request), self._loop)
            self._running.add(future)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise RemoteError(f"the request to {self._name} was given up") from error
        finally:
            future.cancel()  # an interrupt ends the waiting, and the request with it
            with self._lock:
                self._running.discard(future)

    def close(self) -> None:
        """Give up what is running, and stop. Does nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            running = list(self._running)
        for future in running:
            future.cancel()
        asyncio.run_coroutine_threadsafe(_rest(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _begun(request: Callable[[], Awaitable[_T]]) -> _T:
    """Begin it in the loop itself, as obstore has to."""
    return await request()


async def _rest() -> None:
    """Let what was cancelled end."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.gather(*others, return_exceptions=True)
