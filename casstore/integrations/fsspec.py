"""Versions as a read-only file system of fsspec: `casstore://NAME[:VERSION|@ALIAS]/PATH`.

fsspec finds this module by its entry point, and pandas, pyarrow, dask and others open what has `://` in its name by
fsspec. Every byte is checked against its digest, and no directory is made.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any, BinaryIO, NoReturn, cast
from urllib.parse import unquote

import casstore
from casstore.integrations.needed import needed
from casstore.integrations.urls import DESCRIPTOR, READ_ONLY, Tree, split

with needed("fsspec", "fsspec"):
    from fsspec.spec import AbstractFileSystem

_VERSIONS_KEPT = 8


class CasstoreFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The versions of a store, each a directory named by its tag; `bert`, `bert@prod` and the like lead to one, too.

    Nothing can be written: that raises OSError with EROFS.

    Parameters
    ----------
    home
        The directory of the store. None means `$CASSTORE_HOME` whenever something is read, or else `~/.casstore`.
    pull
        False: a version that is not in this store is not looked for in its remotes.
    storage_options
        What fsspec's own class takes.
    """

    protocol = "casstore"
    root_marker = ""

    def __init__(
        self, home: str | os.PathLike[str] | None = None, *, pull: bool = True, **storage_options: Any
    ) -> None:
        super().__init__(**storage_options)
        if "fo" in storage_options or "target_protocol" in storage_options:
            raise ValueError(
                "in a URL '::' stands before what casstore:// is read through, as in simplecache::casstore://bert/w, "
                "and cannot follow it; fsspec.filesystem('casstore').open(...) opens a file with '::' in its name"
            )
        self._home = home
        self._pull = pull
        self._trees: OrderedDict[str, Tree] = OrderedDict()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        return super()._strip_protocol(path).strip("/")

    @property
    def fsid(self) -> str:
        """Tells the store from others on this machine."""
        return f"casstore:{self._store().home}"

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a directory: of the root all versions, by tag. Raises FileNotFoundError."""
        reference, inner = self._split(path)
        if not reference and not detail:
            return list(self._store().tags())
        if not reference:
            return [_version_info(str(model.tag), model) for model in self._store().list()]
        tree = self._tree(reference, path)
        if inner in tree.directories:
            found = [_info(reference, each, tree) for each in tree.directories[inner]]
        else:
            found = [self.info(path)]
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size, type and times of a file or directory, its version's tag, and a file's BLAKE3 digest.

        Raises FileNotFoundError.
        """
        reference, inner = self._split(path)
        if not reference:
            return {"name": "", "size": 0, "type": "directory", "mode": 0o555}
        if not inner:  # most often one of many, whose files nobody asks for
            return _version_info(reference, self._model(self._store(), reference, path))
        tree = self._tree(reference, path)
        if inner == DESCRIPTOR:
            raw = tree.model.open(DESCRIPTOR).read()
            return _file_info(_info(reference, inner, tree), len(raw), casstore.Digest.of(raw))
        if inner not in tree.files and inner not in tree.directories:
            raise _no_file(tree, inner, path)
        return _info(reference, inner, tree)

    def created(self, path: str) -> datetime:
        """When the version was saved, in UTC. Raises FileNotFoundError."""
        reference, inner = self._split(path)
        if not reference:
            raise FileNotFoundError(errno.ENOENT, "the store itself has no time; name a version", path)
        return datetime.fromtimestamp(self.info(f"{reference}/{inner}")["created"], timezone.utc)

    def modified(self, path: str) -> datetime:
        """When the version was saved: it never changes. Raises FileNotFoundError."""
        return self.created(path)

    def ukey(self, path: str) -> str:
        """The BLAKE3 digest of a file, or of a version's list of files. Raises FileNotFoundError."""
        info = self.info(path)
        return str(info.get("blake3") or info.get("digest") or super().ukey(path))

    def checksum(self, path: str) -> int:
        """The digest that `ukey` gives, as a number. Raises FileNotFoundError."""
        return int(self.ukey(path), 16)

    def _open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> BinaryIO:
        if mode != "rb":
            _refuse(path)
        tree, inner = self._file(path)
        return cast(BinaryIO, tree.model.open(inner))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file, or those from `start` to `end`, as a slice has them. Raises FileNotFoundError."""
        tree, inner = self._file(path)
        if start is None and end is None and inner != DESCRIPTOR:
            return next(tree.model.read_files([inner]))[1]
        with self._open(path) as file:
            return _part(file, *slice(start, end).indices(file.seek(0, os.SEEK_END)))

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:
        """The bytes of one file, or of many by their paths: those of one version are read together."""
        paths = self.expand_path(path, recursive=recursive)
        if isinstance(path, str | os.PathLike) and paths == [self._strip_protocol(path)] and not recursive:
            return self.cat_file(paths[0])
        together = self._read_together(paths)
        found: dict[str, Any] = {}
        for each in paths:
            try:
                if each in together:
                    found[each] = together.pop(each)
                elif not recursive or self.isfile(each):
                    found[each] = self.cat_file(each)
            except Exception as error:
                if on_error == "raise":
                    raise
                if on_error == "return":
                    found[each] = error
        return found

    def cat_ranges(
        self, paths: Any, starts: Any, ends: Any, max_gap: int | None = None, on_error: str = "return", **kwargs: Any
    ) -> list[Any]:
        """The bytes of parts of files, in their order; each file is opened once."""
        if max_gap is not None or not isinstance(paths, list):
            return cast("list[Any]", super().cat_ranges(paths, starts, ends, max_gap, on_error, **kwargs))
        count = len(paths)
        starts, ends = (each if isinstance(each, list) else [each] * count for each in (starts, ends))
        if not len(starts) == len(ends) == count:
            raise ValueError(f"{count} paths need as many starts and ends, not {len(starts)} and {len(ends)}")
        found: list[Any] = [None] * count
        numbers: dict[str, list[int]] = {}
        for number, path in enumerate(paths):
            numbers.setdefault(self._strip_protocol(path), []).append(number)
        for path, wanted in numbers.items():
            try:
                with self._open(path) as file:
                    size = file.seek(0, os.SEEK_END)
                    parts = {number: slice(starts[number], ends[number]).indices(size) for number in wanted}
                    for number in sorted(parts, key=parts.__getitem__):  # neighbours are in one chunk, decoded once
                        found[number] = _part(file, *parts[number])
            except Exception as error:
                if on_error != "return":
                    raise
                for number in wanted:
                    found[number] = error if found[number] is None else found[number]
        return found

    def _read_together(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The bytes of these files as far as they can be read: what cannot be is left to those who read it alone."""
        inners: dict[str, list[str]] = {}
        for path in paths:
            reference, inner = self._split(path)
            inners.setdefault(reference, []).append(inner)
        found: dict[str, bytes] = {}
        for reference, wanted in inners.items():
            try:
                tree = self._tree(reference, reference)
                for inner, raw in tree.model.read_files([each for each in wanted if each in tree.files]):
                    found[f"{reference}/{inner}"] = raw
            except (casstore.CasstoreError, OSError):
                continue
        return found

    def _store(self) -> casstore.Store:
        return casstore.store_at(self._home, create=False)

    def _split(self, path: str) -> tuple[str, str]:
        """The version that a path names, and the path in it."""
        return split(self._strip_protocol(path))

    def _model(self, store: casstore.Store, reference: str, path: str) -> casstore.Model:
        try:
            return store.get(reference, pull=self._pull)
        except (casstore.TagNotFound, casstore.AmbiguousTag, casstore.InvalidTag) as error:
            raise FileNotFoundError(errno.ENOENT, str(error), path) from error

    def _tree(self, reference: str, path: str) -> Tree:
        store = self._store()
        model = self._model(store, reference, path)
        tag = str(model.tag)
        tree = self._trees.pop(tag, None)
        if tree is None or tree.model != model or tree.store is not store:
            tree = Tree(store, model)
        self._trees[tag] = tree
        while len(self._trees) > _VERSIONS_KEPT:
            self._trees.popitem(last=False)
        return tree

    def _file(self, path: str) -> tuple[Tree, str]:
        reference, inner = self._split(path)
        if not reference:
            raise IsADirectoryError(errno.EISDIR, "this is all of the store; name a version and a file in it", path)
        tree = self._tree(reference, path)
        if inner in tree.directories:
            raise IsADirectoryError(errno.EISDIR, f"this is a directory of {tree.model.tag}", path)
        if inner not in tree.files and inner != DESCRIPTOR:
            raise _no_file(tree, inner, path)
        return tree, inner

    def mkdir(self, path: str, *_: Any, **__: Any) -> NoReturn:
        _refuse(path)

    makedirs = rmdir = rm = rm_file = _rm = touch = pipe_file = mkdir

    def cp_file(self, path1: str, path2: str, **_: Any) -> NoReturn:  # noqa: ARG002 - fsspec's signature
        _refuse(path2)

    mv = copy = put_file = cp_file


def _version_info(name: str, model: casstore.Model) -> dict[str, Any]:
    return {**_directory(name, model), "digest": str(model.digest)}


def _directory(name: str, model: casstore.Model) -> dict[str, Any]:
    created = model.created_at.timestamp()
    return {
        "name": name, "size": 0, "type": "directory", "mode": 0o555, "created": created, "mtime": created,
        "tag": str(model.tag),
    }  # fmt: skip


def _info(reference: str, inner: str, tree: Tree) -> dict[str, Any]:
    info: dict[str, Any] = _directory(f"{reference}/{inner}", tree.model)
    file = tree.files.get(inner)
    return info if file is None else _file_info(info, file.size, file.digest, 0o555 if file.executable else 0o444)


def _file_info(info: dict[str, Any], size: int, digest: casstore.Digest, mode: int = 0o444) -> dict[str, Any]:
    return {**info, "size": size, "type": "file", "mode": mode, "blake3": str(digest)}


def _part(file: BinaryIO, start: int, end: int, _: int) -> bytes:
    file.seek(start)
    return file.read(max(0, end - start))


def _no_file(tree: Tree, inner: str, path: str) -> FileNotFoundError:
    advice = "ls(...) lists what it has"
    for near in (unquote(inner), inner.partition("#")[0], inner.partition("?")[0]):
        if near != inner and near in tree.files:
            advice = (
                f"did you mean {near!r}? In casstore:// URLs names stand as they are: nothing is percent-encoded, and "
                "'?' and '#' are letters like others"
            )
    return FileNotFoundError(errno.ENOENT, f"{tree.model.tag} has no file {inner!r}; {advice}", path)


def _refuse(path: Any) -> NoReturn:
    raise OSError(errno.EROFS, READ_ONLY, str(path))
