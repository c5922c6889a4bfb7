"""`UPath("casstore://bert:v1")`: universal_pathlib finds this module by its entry point."""

from __future__ import annotations

from fsspec import register_implementation
from upath import UPath

from casstore.integrations.fsspec import CasstoreFileSystem

# A path of a protocol whose file system has not been imported yet is parsed by guesses, with a warning.
register_implementation("casstore", CasstoreFileSystem, clobber=True)


class CasstorePath(UPath):  # type: ignore[misc]  # not installed for development
    """A path in a store, with the methods of pathlib's; nothing can be written to it."""

    __slots__ = ()
