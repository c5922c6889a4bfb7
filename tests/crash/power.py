"""Power cuts: a record of every change of a directory tree, and what of it a disk may hold after the power went.

`Recorder` logs what a process changes below a directory, SQLite's own writes through a VFS. `Disk` is the model that
POSIX leaves: an fsync of a file makes its bytes and its size durable and not its name, an fsync of a directory makes
names in it durable, and of everything else any part may be there or not, with these bounds:

- changes of one name keep their order, a rename between directories is atomic, and it is on disk only if both are
- a write may be torn; what was not written reads as zeros where the size is kept
- a lost mode is that of creation; a file's mtime is always kept, so that nobody may go by it
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import pathlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

from casstore.actions import instance
from casstore.storage import files, reserve

ROOT = 1 << 40  # inode numbers of the model begin here, above any real one


class Name(NamedTuple):
    """A change of names, all or nothing: (directory, name, inode or None for none). `made`: the inode it creates."""

    changes: tuple[tuple[int, str, int | None], ...]
    made: int | None = None
    is_directory: bool = False


class Write(NamedTuple):
    inode: int
    offset: int
    data: bytes
    mtime_ns: int = 0


class Truncate(NamedTuple):
    inode: int
    size: int


class Mode(NamedTuple):
    inode: int
    mode: int
    mtime_ns: int = 0


class Sync(NamedTuple):
    inode: int


class Mark(NamedTuple):
    """What the program has been told, or is about to ask for."""

    event: Any


Operation = Name | Write | Truncate | Mode | Sync | Mark
Data = Write | Truncate | Mode


class Stamps:
    """Makes stat answer with the model's inode numbers, which the files of a disk keep when it is mounted again."""

    def __init__(self) -> None:
        self.inodes: dict[int, int] = {}  # by the real ones

    def install(self, patch: pytest.MonkeyPatch) -> None:
        _keep_change_times(patch)
        for name in ("stat", "lstat", "fstat"):
            _patch(patch, name, self._translated(getattr(os, name)))
        real = os.scandir
        _patch(patch, "scandir", lambda *args: _Entries(real(*args), self))

    def _translated(self, real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        return lambda *args, **kwargs: self.of(real(*args, **kwargs))

    def of(self, status: os.stat_result) -> os.stat_result:
        inode = self.inodes.get(status.st_ino)
        if inode is None:
            return status
        visible = list(status)
        visible[1] = inode
        return os.stat_result(visible, {name: getattr(status, name) for name in _HIDDEN})


_HIDDEN = [name for name in dir(os.stat_result) if name.startswith("st_") and name not in ("st_ino", "st_mode")]


class _Entries:
    def __init__(self, real: Any, stamps: Stamps) -> None:
        self._real = real
        self._stamps = stamps

    def __iter__(self) -> _Entries:
        return self

    def __next__(self) -> _Entry:
        return _Entry(next(self._real), self._stamps)

    def close(self) -> None:
        self._real.close()

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()


class _Entry:
    def __init__(self, real: os.DirEntry[str], stamps: Stamps) -> None:
        self._real = real
        self._stamps = stamps

    def stat(self, **options: Any) -> os.stat_result:
        return self._stamps.of(self._real.stat(**options))

    def __fspath__(self) -> str:
        return self._real.path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _keep_change_times(patch: pytest.MonkeyPatch) -> None:
    """A disk that is mounted again has them, by which a store is told from a copy of it; those of an image are now."""
    patch.setattr(instance, "_changed_ns", lambda _: 0)
    patch.setattr(reserve, "make", lambda _: None)  # of no meaning, and the model of the disk has no such call


def _patch(patch: pytest.MonkeyPatch, name: str, function: Callable[..., Any]) -> None:
    patch.setattr(os, name, function)
    accessor = getattr(pathlib, "_normal_accessor", None)  # Python 3.10 keeps its own references
    if hasattr(accessor, name):
        patch.setattr(accessor, name, function)


class Recorder:
    """Logs all changes below `root`, an empty directory, from `install` on."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.log: list[Operation] = []
        self.stamps = Stamps()
        self.stamps.inodes[os.stat(root).st_ino] = ROOT
        self._names: dict[int, dict[str, int]] = {ROOT: {}}
        self._last = ROOT
        self._lock = threading.RLock()

    def mark(self, event: Any) -> None:
        self.log.append(Mark(event))

    @contextlib.contextmanager
    def install(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            _keep_change_times(patch)
            real = {name: getattr(os, name) for name in ("stat", "fstat", "open")}
            self._stat, self._fstat, self._open = real["stat"], real["fstat"], real["open"]
            for name, before, after in (
                ("open", self._before_open, self._after_open),
                ("write", None, self._after_write),
                ("pwrite", None, self._after_pwrite),
                ("fsync", None, lambda _, descriptor: self._synced(self._of(descriptor))),
                ("fchmod", None, lambda _, descriptor, mode: self._chmod(self._of(descriptor), mode)),
                ("chmod", None, self._after_chmod),
                ("rename", self._before_rename, self._after_rename),
                ("link", None, self._after_link),
                ("unlink", None, self._after_unlink),
                ("rmdir", None, self._after_unlink),
                ("mkdir", None, self._after_mkdir),
            ):
                _patch(patch, name, self._logged(getattr(os, name), before, after))
            patch.setattr(fcntl, "ioctl", _no_clone)
            patch.setattr(files, "rename_at", lambda *_: False)  # as where two names cannot be exchanged at once
            self.stamps.install(patch)
            vfs = _Vfs(self)
            try:
                yield
            finally:
                vfs.unregister()

    def _logged(
        self, real: Callable[..., Any], before: Callable[..., Any] | None, after: Callable[..., None]
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                noted = None if before is None else before(*args, **kwargs)
                result = real(*args, **kwargs)
                after(result if noted is None else noted, *args, **kwargs)
                return result

        return call

    def place(self, path: Any, dir_fd: int | None = None) -> tuple[int, str] | None:
        """The directory and the name that a path means; None for one that is not below the root."""
        text = os.fsdecode(path)
        if dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        text = os.path.abspath(text)
        if not text.startswith(self.root + "/"):
            return None
        *parents, name = text[len(self.root) + 1 :].split("/")
        inode = ROOT
        for parent in parents:
            if parent not in self._names[inode]:
                return None  # nor does the call find it
            inode = self._names[inode][parent]
        return inode, name

    def inode(self, path: Any, dir_fd: int | None = None) -> int | None:
        """The inode that a path below the root names."""
        if os.path.abspath(os.fsdecode(path)) == self.root:
            return ROOT
        place = self.place(path, dir_fd)
        return None if place is None else self._names[place[0]].get(place[1])

    def _of(self, descriptor: int) -> int | None:
        return self.stamps.inodes.get(self._fstat(descriptor).st_ino)

    def _name(self, *changes: tuple[int, str, int | None], made: int | None = None, is_directory: bool = False) -> None:
        for directory, name, inode in changes:
            if inode is None:
                del self._names[directory][name]
            else:
                self._names[directory][name] = inode
        if is_directory and made is not None:
            self._names[made] = {}
        self.log.append(Name(changes, made, is_directory))

    def made(self, place: tuple[int, str], status: os.stat_result, *, is_directory: bool = False) -> None:
        """Log a new file or directory. Its mode is that of creation."""
        self._last += 1
        self.stamps.inodes[status.st_ino] = self._last
        self._name((*place, self._last), made=self._last, is_directory=is_directory)
        if not is_directory:
            self.log.append(Mode(self._last, status.st_mode & 0o7777, status.st_mtime_ns))

    def data(self, operation: Data) -> None:
        self.log.append(operation)

    def gone(self, path: Any, dir_fd: int | None = None) -> None:
        place = self.place(path, dir_fd)
        if place is not None:
            self._name((*place, None))

    def _before_open(self, path: Any, flags: int, *_: int, dir_fd: int | None = None) -> bool:
        place = self.place(path, dir_fd) if flags & os.O_CREAT else None
        return place is not None and place[1] not in self._names[place[0]]

    def _after_open(self, is_new: bool, path: Any, *_: Any, dir_fd: int | None = None, **__: Any) -> None:
        if is_new:
            place = self.place(path, dir_fd)
            assert place is not None
            self.made(place, self._stat(path, dir_fd=dir_fd))

    def _after_write(self, written: int, descriptor: int, data: Any) -> None:
        if self._of(descriptor) is not None:
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            self._after_pwrite(written, descriptor, data, end - written)

    def _after_pwrite(self, written: int, descriptor: int, data: Any, offset: int) -> None:
        inode = self._of(descriptor)
        if inode is not None:
            mtime_ns = self._fstat(descriptor).st_mtime_ns
            self.data(Write(inode, offset, bytes(memoryview(data)[:written]), mtime_ns))

    def _synced(self, inode: int | None) -> None:
        if inode is not None:
            self.log.append(Sync(inode))

    def _chmod(self, inode: int | None, mode: int) -> None:
        if inode is not None and inode not in self._names:
            self.data(Mode(inode, mode))

    def _after_chmod(self, _: None, path: Any, mode: int, *, dir_fd: int | None = None, **__: Any) -> None:
        self._chmod(self._of(path) if isinstance(path, int) else self.inode(path, dir_fd), mode)

    def _before_rename(
        self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> tuple[Any, Any, int | None]:
        return self.place(source, src_dir_fd), self.place(target, dst_dir_fd), self.inode(target, dst_dir_fd)

    def _after_rename(self, places: tuple[Any, Any, int | None], *_: Any, **__: Any) -> None:
        from_place, to_place, replaced = places
        if from_place is None and to_place is None:
            return
        assert from_place is not None, "nothing comes from outside"
        assert to_place is not None, "nothing goes outside"
        inode = self._names[from_place[0]][from_place[1]]
        if inode != replaced:  # a link renamed onto another of its file stays: rename(2)
            self._name((*from_place, None), (*to_place, inode))

    def _after_link(self, _: None, source: Any, target: Any, **__: Any) -> None:
        place = self.place(target)
        if place is not None:
            self._name((*place, self.inode(source)))

    def _after_unlink(self, _: None, path: Any, *, dir_fd: int | None = None) -> None:
        self.gone(path, dir_fd)

    def _after_mkdir(self, _: None, path: Any, *__: Any, dir_fd: int | None = None) -> None:
        place = self.place(path, dir_fd)
        if place is not None:
            self.made(place, self._stat(path, dir_fd=dir_fd), is_directory=True)


def _no_clone(*_: object) -> None:
    """Sharing extents would be a write of everything, which copying is too."""
    raise OSError(errno.EOPNOTSUPP, "not in a recorded process")


class _Vfs(apsw.VFS):
    """SQLite's files, the default for connections opened while it is registered. The shared memory passes it by."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__("recorded", base="unix", makedefault=True)
        self._recorder = recorder

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or self._recorder.place(path) is None:
            return apsw.VFSFile("unix", name, flags)
        return _VfsFile(self._recorder, name, path, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        with self._recorder._lock:
            super().xDelete(filename, syncdir)
            self._recorder.gone(filename)
            if syncdir:
                self._recorder._synced(self._recorder.inode(os.path.dirname(filename)))


class _VfsFile(apsw.VFSFile):
    def __init__(self, recorder: Recorder, name: Any, path: str, flags: list[int]) -> None:
        place = recorder.place(path)
        assert place is not None
        with recorder._lock:
            is_new = recorder.inode(path) is None
            super().__init__("unix", name, flags)
            if is_new:
                recorder.made(place, recorder._stat(path))
        self._recorder = recorder
        self._directory, self._inode = place[0], recorder.inode(path) or 0
        # unixOpen in os_unix.c: the first sync of a log that may have been created syncs its directory too.
        is_log = flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL)
        self._syncs_directory = bool(is_log and flags[0] & apsw.SQLITE_OPEN_CREATE)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        with self._recorder._lock:
            super().xWrite(data, offset)
            self._recorder.data(Write(self._inode, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        with self._recorder._lock:
            super().xTruncate(newsize)
            self._recorder.data(Truncate(self._inode, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        with self._recorder._lock:
            super().xSync(flags)
            self._recorder._synced(self._inode)
            if self._syncs_directory:
                self._recorder._synced(self._directory)
                self._syncs_directory = False


class Choice(NamedTuple):
    """What of a disk's unsynced changes survives: names by their number, and of each file's data each change, whole
    (True), not at all (False) or some byte ranges of it; `keeps_size` of files whose data is lost."""

    names: frozenset[int]
    data: Mapping[int, tuple[bool | tuple[tuple[int, int], ...], ...]]
    keeps_size: bool


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    mode: int = 0
    mtime_ns: int = 0
    unsynced: list[Data] = field(default_factory=list)
    version: int = 0


@dataclass(frozen=True)
class Image:
    """One state of a disk that can be mounted: the tree below the root."""

    directories: tuple[str, ...]
    files: tuple[tuple[str, int], ...]  # path and inode
    contents: dict[int, tuple[bytes, int, int]]  # inode to bytes, mode, mtime_ns
    inodes: dict[str, int]
    digest: str

    def mount(self, root: Path) -> Stamps:
        """Write the tree into the empty directory `root`; the answer has its inodes."""
        stamps = Stamps()
        stamps.inodes[os.stat(root).st_ino] = ROOT
        for name in self.directories:
            path = f"{root}/{name}"
            os.mkdir(path)
            stamps.inodes[os.stat(path).st_ino] = self.inodes[name]
        first: dict[int, str] = {}
        for name, inode in self.files:
            path = f"{root}/{name}"
            if inode in first:
                os.link(first[inode], path)
                continue
            first[inode] = path
            data, mode, mtime_ns = self.contents[inode]
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, data)
                os.fchmod(descriptor, mode)
                stamps.inodes[os.fstat(descriptor).st_ino] = inode
            finally:
                os.close(descriptor)
            os.utime(path, ns=(mtime_ns, mtime_ns))
        return stamps

    def differences(self, root: Path) -> list[str]:
        """Where a real tree differs from this one: paths, bytes, modes, and which paths are one file."""
        real: dict[str, Any] = {}
        first: dict[int, str] = {}
        for directory, directories, names in os.walk(root):
            for name in directories + names:
                path = os.path.relpath(os.path.join(directory, name), root)
                status = os.lstat(root / path)
                if name in directories:
                    real[path] = "directory"
                elif not name.endswith("-shm"):
                    twin = first.setdefault(status.st_ino, path)
                    real[path] = (twin, status.st_mode & 0o7777, status.st_mtime_ns, (root / path).read_bytes())
        expected: dict[str, Any] = dict.fromkeys(self.directories, "directory")
        for path, inode in self.files:
            data, mode, mtime_ns = self.contents[inode]
            twin = min((other for other, each in self.files if each == inode), key=list(real).index, default=path)
            expected[path] = (twin, mode, mtime_ns, data)
        for tree in (real, expected):
            for path in [path for path in tree if path.rpartition("/")[2].startswith("catalog.db")]:
                tree[path] = tree[path][-1]  # SQLite sets their times and modes
        return sorted(path for path in real.keys() | expected.keys() if real.get(path) != expected.get(path))


class Disk:
    """A disk that has been told part of a log: what is on it for certain, and what may be."""

    def __init__(self) -> None:
        self._directories: dict[int, dict[str, int]] = {ROOT: {}}
        self._files: dict[int, _File] = {}
        self._unsynced: dict[int, Name] = {}  # by number, in order
        self._count = 0
        self._catalog: set[int] = set()
        self._digests: dict[Any, tuple[bytes, int, int, bytes]] = {}

    def apply(self, operation: Operation) -> None:
        if isinstance(operation, Name):
            if operation.made is not None and operation.is_directory:
                self._directories[operation.made] = {}
            elif operation.made is not None:
                self._files[operation.made] = _File()
                if operation.changes[0][1].startswith("catalog.db"):
                    self._catalog.add(operation.made)
            self._count += 1
            self._unsynced[self._count] = operation
        elif isinstance(operation, Sync):
            self._sync(operation.inode)
        elif not isinstance(operation, Mark):
            file = self._files[operation.inode]
            if isinstance(operation, Mode) and operation.mtime_ns:  # made
                file.mode, file.mtime_ns = operation.mode, operation.mtime_ns
                return
            if isinstance(operation, Write):
                file.mtime_ns = operation.mtime_ns
            file.unsynced.append(operation)

    def _sync(self, inode: int) -> None:
        file = self._files.get(inode)
        if file is not None:
            file.data, file.mode = self._content(file, (True,) * len(file.unsynced), keeps_size=True)
            file.unsynced.clear()
            file.version += 1
            return
        wanted = {number for number, name in self._unsynced.items() if any(c[0] == inode for c in name.changes)}
        for number in sorted(self._with_needed(wanted)):
            for directory, name, target in self._unsynced.pop(number).changes:
                _change(self._directories[directory], name, target)

    def _with_needed(self, wanted: set[int]) -> set[int]:
        """These changes of names, and those without which they cannot be on disk."""
        needed = self._needed()
        found: set[int] = set()
        stack = list(wanted)
        while stack:
            number = stack.pop()
            if number not in found:
                found.add(number)
                stack += needed[number]
        return found

    def _needed(self) -> dict[int, list[int]]:
        last: dict[tuple[int, str], int] = {}
        made: dict[int, int] = {}
        needed: dict[int, list[int]] = {}
        for number, name in self._unsynced.items():
            keys = [(directory, key) for directory, key, _ in name.changes]
            needed[number] = [last[key] for key in keys if key in last]
            if len({directory for directory, _ in keys}) > 1:
                needed[number] += [made[directory] for directory, _ in keys if directory in made]
            last.update(dict.fromkeys(keys, number))
            if name.is_directory and name.made is not None:
                made[name.made] = number
        return needed

    def choices(self, rng: random.Random, count: int) -> Iterator[Choice]:
        """What may survive a power cut now: the extremes, and `count` samples of what lies between them."""
        everything = frozenset(self._unsynced)
        pending = {inode: file.unsynced for inode, file in self._files.items() if file.unsynced}
        kept = {inode: (True,) * len(changes) for inode, changes in pending.items()}
        lost = {inode: (False,) * len(changes) for inode, changes in pending.items()}
        catalog = {inode: changes for inode, changes in kept.items() if inode in self._catalog}
        others = {inode: changes for inode, changes in kept.items() if inode not in self._catalog}
        yield Choice(frozenset(), lost, False)
        yield Choice(everything, kept, True)
        yield Choice(everything, lost, False)
        yield Choice(everything, lost, True)
        yield Choice(frozenset(), kept, True)
        yield Choice(everything, {**lost, **catalog}, True)
        yield Choice(everything, {**lost, **others}, False)
        # The first write of each file is lost: of some, size tells, and of larger ones nothing does.
        holed = {inode: (False, *changes[1:]) for inode, changes in others.items()}
        yield Choice(everything, {**holed, **catalog}, False)
        for number in self._moves():
            yield Choice(frozenset(each for each in everything if each < number), kept, True)
        for step in (512, 4096):
            torn = {inode: (*each[:-1], _torn(pending[inode][-1], step, rng)) for inode, each in kept.items()}
            yield Choice(everything, torn, False)
        for _ in range(count):
            share, catalog_share, other_share = rng.choice(_SHARES), rng.choice(_SHARES), rng.choice(_SHARES)
            names = self._some_names(share, rng)
            data = {
                inode: tuple(
                    _some(change, catalog_share if inode in self._catalog else other_share, rng) for change in changes
                )
                for inode, changes in pending.items()
            }
            yield Choice(names, data, rng.random() < 0.5)

    def _moves(self) -> list[int]:
        """The last renames from one directory to another: what was done just now stands on them."""
        moves = [number for number, name in self._unsynced.items() if len({each[0] for each in name.changes}) > 1]
        return moves[-_MOVES:]

    def _some_names(self, share: float, rng: random.Random) -> frozenset[int]:
        needed = self._needed()
        chosen: set[int] = set()
        for number in self._unsynced:
            if rng.random() < share and chosen.issuperset(needed[number]):
                chosen.add(number)
        return frozenset(chosen)

    def image(self, choice: Choice) -> Image:
        """The tree that is found when the power is back."""
        changed: dict[int, dict[str, int]] = {}
        for number in sorted(choice.names):
            for directory, name, target in self._unsynced[number].changes:
                if directory not in changed:
                    changed[directory] = dict(self._directories[directory])
                _change(changed[directory], name, target)
        directories: list[str] = []
        files: list[tuple[str, int]] = []
        inodes: dict[str, int] = {}
        contents: dict[int, tuple[bytes, int, int]] = {}
        hasher = hashlib.blake2b(digest_size=16)
        stack = [("", ROOT)]
        while stack:
            path, inode = stack.pop()
            for name, target in sorted(changed.get(inode, self._directories[inode]).items()):
                child = f"{path}{name}"
                hasher.update(f"{child}\0{target}\0".encode())
                if target in self._directories:
                    directories.append(child)
                    inodes[child] = target
                    stack.append((f"{child}/", target))
                    continue
                files.append((child, target))
                if target not in contents:
                    data, mode, mtime_ns, digest = self._chosen(target, choice)
                    contents[target] = data, mode, mtime_ns
                    hasher.update(digest)
        return Image(tuple(directories), tuple(files), contents, inodes, hasher.hexdigest())

    def _chosen(self, inode: int, choice: Choice) -> tuple[bytes, int, int, bytes]:
        file = self._files[inode]
        pieces = choice.data.get(inode, ())
        key = (inode, file.version, pieces, choice.keeps_size, file.mtime_ns)
        if key not in self._digests:
            data, mode = self._content(file, pieces, keeps_size=choice.keeps_size)
            digest = hashlib.blake2b(data, digest_size=16, key=b"%d %d" % (mode, file.mtime_ns)).digest()
            if len(self._digests) > 4000:
                self._digests.clear()
            self._digests[key] = bytes(data), mode, file.mtime_ns, digest
        return self._digests[key]

    @staticmethod
    def _content(file: _File, pieces: tuple[Any, ...], *, keeps_size: bool) -> tuple[bytearray, int]:
        data, mode, size = bytearray(file.data), file.mode, len(file.data)
        for change, piece in zip(file.unsynced, pieces, strict=True):
            if isinstance(change, Write):
                size = max(size, change.offset + len(change.data))
                ranges = ((0, len(change.data)),) if piece is True else piece or ()
                for start, end in ranges:
                    _put(data, change.offset + start, change.data[start:end])
            elif isinstance(change, Truncate):
                size = change.size
                if piece:
                    del data[change.size :]
                    data.extend(bytes(change.size - len(data)))
            elif piece:
                mode = change.mode
        if keeps_size:
            del data[size:]
            data.extend(bytes(size - len(data)))
        return data, mode


_SHARES = (0.0, 0.5, 0.9, 1.0)
_MOVES = 4


def _change(entries: dict[str, int], name: str, inode: int | None) -> None:
    if inode is None:
        entries.pop(name, None)
    else:
        entries[name] = inode


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if offset > len(data):
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


def _torn(change: Data, step: int, rng: random.Random) -> bool | tuple[tuple[int, int], ...]:
    """Part of a write, cut between blocks of `step` bytes of the disk."""
    if not isinstance(change, Write):
        return rng.random() < 0.5
    cuts = list(range(step - change.offset % step, len(change.data), step))
    if not cuts:
        return False
    if rng.random() < 0.7:
        return ((0, rng.choice(cuts)),)
    bounds = [0, *cuts, len(change.data)]
    return tuple(pair for pair in itertools.pairwise(bounds) if rng.random() < 0.5)


def _some(change: Data, share: float, rng: random.Random) -> bool | tuple[tuple[int, int], ...]:
    if share < 1 and isinstance(change, Write) and rng.random() < 0.2:
        return _torn(change, rng.choice((512, 4096)), rng)
    return rng.random() < share
