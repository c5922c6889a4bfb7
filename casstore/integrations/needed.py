"""Packages of others, that a module here is for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed(package: str, extra: str) -> Iterator[None]:
    """For the import of a package: where that is not installed, ModuleNotFoundError says by what extra it comes."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package.partition(".")[0]:
            raise
        raise ModuleNotFoundError(
            f"{package} is not installed: pip install 'casstore[{extra}]'", name=error.name
        ) from error
