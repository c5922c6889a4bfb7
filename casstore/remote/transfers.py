"""Threads for requests that run side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


@contextlib.contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads whose work is done at the end of the block, and is not waited for where that ends in an error.

    What has not begun then never does; a request that is on its way ends when its backend is closed.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="casstore-remote")
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
