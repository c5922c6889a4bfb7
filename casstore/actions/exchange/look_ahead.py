"""Looking ahead: while some directories are being saved, which waits for the disk, the next are walked and hashed."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from casstore.actions.sources.source import Source, SourceFile, find_source
from casstore.catalog.index import Fingerprint
from casstore.storage import chunking
from casstore.storage.descriptors import opened
from casstore.storage.recipe import Recipe


class _Stopped(Exception):
    """The caller does not need the result any more."""


# Two threads with a file each need not wait for each other, as two with parts of one file do. Above this size that
# matters less than that the last file is not left to one of them.
_ONE_THREAD_BYTES = 64 << 20


class LookAhead:
    """Threads that look at directories; ended by leaving the `with` block, also amid a large file."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(chunking.HASH_THREADS)
        self._is_stopped = False

    def __enter__(self) -> LookAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped = True
        self._pool.shutdown(cancel_futures=True)

    def look(self, path: Path, *, is_hashed: bool) -> Future[Source]:
        """What is in a directory, soon; with `is_hashed` the recipes of its files too. Raises InvalidSource."""
        return self._pool.submit(self._look, path, is_hashed)

    def _look(self, path: Path, is_hashed: bool) -> Source:
        source = find_source(path)
        for file in source.files if is_hashed else ():
            recipe = self._scan(file)
            if recipe is not None:
                source.scanned[file.path] = recipe
        return source

    def _scan(self, file: SourceFile) -> Recipe | None:
        """The file's recipe; None where it is not as it was found, or cannot be read: who saves it will say so."""
        try:
            with opened(file.disk_path, os.O_RDONLY) as descriptor:
                size = file.status.st_size
                threads = 1 if size < _ONE_THREAD_BYTES else chunking.HASH_THREADS
                recipe = chunking.scan_file(descriptor, self._check, size, threads=threads)
                is_as_found = Fingerprint.of(os.fstat(descriptor)) == Fingerprint.of(file.status)
        except (OSError, EOFError):
            return None
        return recipe if is_as_found else None

    def _check(self, _: int) -> None:
        if self._is_stopped:
            raise _Stopped
