"""Looking ahead: while one directory is being saved, which waits for the disk, the next is walked and hashed."""

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


class LookAhead:
    """One thread that looks at directories; ended by leaving the `with` block, also amid a large file."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
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
                recipe = chunking.scan_file(descriptor, self._check, file.status.st_size)
                is_as_found = Fingerprint.of(os.fstat(descriptor)) == Fingerprint.of(file.status)
        except (OSError, EOFError):
            return None
        return recipe if is_as_found else None

    def _check(self, _: int) -> None:
        if self._is_stopped:
            raise _Stopped
