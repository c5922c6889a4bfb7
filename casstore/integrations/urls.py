"""What `casstore://NAME[:VERSION|@ALIAS]/PATH` names, for each library that takes URLs."""

from __future__ import annotations

from collections.abc import Mapping

import casstore

DESCRIPTOR = "model.yaml"  # can be read, and is not listed: it is not among a version's files
READ_ONLY = (
    "casstore:// is read-only, and saved versions never change: save a new one with "
    "`with store.create('NAME:VERSION') as draft:` or `casstore save NAME:VERSION PATH`"
)


def split(path: str) -> tuple[str, str]:
    """The version that a URL names, and the path in it; `path` is what follows `casstore://`."""
    reference, _, inner = path.partition("/")
    return reference, "/".join(filter(None, inner.split("/"))) if "//" in inner or inner[:1] == "/" else inner


class Tree:
    """The files of a version by path, and what is in each directory of it.

    `names` are other paths that some of the files are to have.
    """

    def __init__(self, store: casstore.Store, model: casstore.Model, names: Mapping[str, str] | None = None) -> None:
        self.store = store
        self.model = model
        self.files = {(names or {}).get(file.path, file.path): file for file in model.files}
        self.directories: dict[str, list[str]] = {"": []}
        for path in sorted((*self.files, *model.empty_directories)):
            child = path
            while child:
                parent = child.rpartition("/")[0]
                is_known = parent in self.directories
                self.directories.setdefault(parent, []).append(child)
                child = "" if is_known else parent
        self.directories.update({path: [] for path in model.empty_directories})
