"""Putting copies of what links lead to where the links stand, when all other members are there."""

from __future__ import annotations

import os
from collections import defaultdict

from casstore.archive.limits import Budget
from casstore.archive.links import Resolver
from casstore.archive.names import clean, show
from casstore.archive.unpacked_tree import DESCRIPTOR_NAME, UnpackedTree
from casstore.errors import UnsafeArchive
from casstore.storage import files
from casstore.storage.descriptors import opened
from casstore.storage.names import as_stored


def copy_links(tree: UnpackedTree, budget: Budget) -> None:
    """Replace every link of the tree. Raises UnsafeArchive, naming a link that cannot be, and OSError."""
    resolver = Resolver(tree.links, tree.kind)
    # All before the first copy, so that none leads to a copy.
    for path in tree.links:
        resolver.locate(path)
    copier = _Copier(tree, budget, resolver)
    for path in tree.links:
        copier.copy_link(path, path, ())


class _Copier:
    """Copies come to stand below links only, so leaving links out of a listing leaves out all copies made so far."""

    def __init__(self, tree: UnpackedTree, budget: Budget, resolver: Resolver) -> None:
        self._tree = tree
        self._budget = budget
        self._resolver = resolver
        self._links_in: dict[str, list[str]] = defaultdict(list)
        for path in tree.links:
            self._links_in[path.rpartition("/")[0]].append(path)

    def copy_link(self, link: str, destination: str, within: tuple[str, ...]) -> None:
        """`within` are the directories whose copying led here."""
        real = self._resolver.locate(link)
        if self._tree.kind(real) != "directory":
            self._copy_file(real, destination)
            return
        if not real or link.startswith(real + "/") or real in within:
            raise UnsafeArchive(
                f"{show(link)} in the archive is a link to a directory that contains it; "
                "pack the archive again without it"
            )
        self._copy_directory(real, destination, (*within, real))

    def _copy_directory(self, directory: str, destination: str, within: tuple[str, ...]) -> None:
        self._budget.add_member()
        self._tree.make_directory(clean(destination))
        with os.scandir(self._tree.disk_path(directory)) as entries:
            for entry in entries:
                name = as_stored(entry.name)
                path = f"{directory}/{name}"
                if path in self._tree.links:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    self._copy_directory(path, f"{destination}/{name}", within)
                else:
                    self._copy_file(path, f"{destination}/{name}")
        for link in self._links_in.get(directory, ()):
            self.copy_link(link, f"{destination}/{link.rpartition('/')[2]}", within)

    def _copy_file(self, path: str, destination: str) -> None:
        clean(destination)
        self._budget.add_member()
        if path == DESCRIPTOR_NAME:
            self._budget.spend(len(self._tree.descriptor or b""))
            self._tree.write(destination, False, [self._tree.descriptor or b""])
            return
        with opened(self._tree.disk_path(path), os.O_RDONLY | os.O_NOFOLLOW) as source:
            status = os.fstat(source)
            self._budget.spend(status.st_size)
            with self._tree.create(destination) as descriptor:
                files.copy_file(source, descriptor)
                if files.is_executable(status):
                    files.set_mode(descriptor, 0o700)
            self._tree.size += status.st_size
