"""What a save is given: the files below a directory, each checked for being something that can be saved."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import field, replace
from pathlib import Path
from typing import NamedTuple

from casstore.actions.sources.ignoring import Rules
from casstore.errors import FileChanged, InvalidSource
from casstore.late_classes import dataclass
from casstore.storage import files
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.names import as_stored
from casstore.storage.recipe import Recipe

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_NOT_ON_WINDOWS = frozenset('<>:"|?*\\') | {chr(code) for code in range(32)}
# The names of a directory, with slashes between them, none of which needs a closer look.
_PLAIN_NAMES = re.compile(r"(?:[ !#-)+-.0-9;=@-\[\]-{}~]*[!#-)+,\-0-9;=@-\[\]-{}~](?:/|$))*")
_MAX_VISITS = 100  # of one directory: links that branch at each level multiply
_MAX_DEPTH = 200  # of directories; a path that deep is near PATH_MAX already


class SourceFile(NamedTuple):
    """One file: its `/`-separated path in the version, where it is, what stat said, and whether no link led there."""

    path: str
    disk_path: str
    status: os.stat_result
    is_direct: bool


@dataclass(slots=True)
class Source:
    """Everything found below `root`: files sorted by path, empty directories, and the links that were followed."""

    root: Path
    files: list[SourceFile] = field(default_factory=list)
    empty_directories: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    descriptor: Path | None = None
    descriptor_status: os.stat_result | None = None
    status: os.stat_result | None = None  # of `root`
    changed_ns: int = 0  # when anything in it last changed, its status included (ctime)
    scanned: dict[str, Recipe] = field(default_factory=dict)  # of files that have been hashed as they were found
    visits: dict[tuple[int, int], int] = field(default_factory=dict)  # of directories, by (device, inode)
    rules: Rules | None = None  # what is left out

    @property
    def size(self) -> int:
        return sum(file.status.st_size for file in self.files)

    @property
    def directories(self) -> frozenset[tuple[int, int]]:
        """Every directory that was walked, `root` among them, by (device, inode)."""
        root = [] if self.status is None else [(self.status.st_dev, self.status.st_ino)]
        return frozenset([*self.visits, *root])

    def moved(self, root: Path) -> Source:
        """The same source once its directory has been renamed to `root`."""
        before = f"{self.root}/"

        def at(path: str) -> str:
            return f"{root}/{path[len(before) :]}" if path.startswith(before) else path

        found = [file._replace(disk_path=at(file.disk_path)) for file in self.files]
        return replace(self, root=root, files=found, links=list(map(at, self.links)))


def find_source(root: Path, rules: Rules | None = None) -> Source:
    """Walk a directory, or take a single file. Links are followed. What `rules` leave out is not looked at.

    A `model.yaml` at the top is not among the files: it is reported as `descriptor`.
    Raises InvalidSource, naming what cannot be saved and why.
    """
    source = Source(root)
    try:
        status = os.stat(root)
    except OSError as error:
        raise _cannot_read(root, error) from error
    source.status, source.changed_ns = status, status.st_ctime_ns
    if stat.S_ISDIR(status.st_mode):
        if rules is not None:
            rules.read(root)
            source.rules = rules
        _walk(source, str(root), "", [(status.st_dev, status.st_ino)], is_direct=not root.is_symlink())
    else:
        _check_name(root.name, str(root))
        if root.name == DESCRIPTOR_NAME:
            raise InvalidSource(f"{root} has the name of the descriptor that casstore writes; rename your file")
        _add_file(source, root.name, str(root), status, is_direct=not root.is_symlink())
    source.files.sort(key=lambda file: as_stored(file.path))
    source.empty_directories.sort(key=as_stored)
    check_collisions([*(file.path for file in source.files), *source.empty_directories])
    return source


def check_as_found(source: Source) -> None:
    """Raise FileChanged unless a walk finds what was found before, and nothing else."""
    now = find_source(source.root)
    is_same = (
        _is_same_inode(now.status, source.status)
        and (now.links, now.empty_directories) == (source.links, source.empty_directories)
        and [file.path for file in now.files] == [file.path for file in source.files]
        and all(is_unchanged(new.status, old.status) for new, old in zip(now.files, source.files, strict=True))
        and is_unchanged(now.descriptor_status, source.descriptor_status)
    )
    if not is_same:
        raise FileChanged(f"{source.root} was written to while it was being saved; save again when it is complete")


def check_removable(source: Source) -> None:
    """Raise InvalidSource, before anything is saved, where `move=True` could not take the files away afterwards."""
    owners = {file.disk_path: file.status.st_uid for file in source.files if file.is_direct}
    owners |= {path: os.lstat(path).st_uid for path in source.links}
    me = os.geteuid()
    modes: dict[str, os.stat_result] = {}
    for path, owner in owners.items():
        directory = os.path.dirname(path) or "."
        if directory not in modes:
            modes[directory] = os.stat(directory)
            if not os.access(directory, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                raise InvalidSource(f"nothing can be taken away from {directory}, which may not be written to; {_KEEP}")
        status = modes[directory]
        if status.st_mode & stat.S_ISVTX and me not in (0, owner, status.st_uid):
            raise InvalidSource(f"{path} belongs to another user, who alone may take it away; {_KEEP}")


_KEEP = "save without --move (in Python: without move=True), which leaves the files there"


def remove_source(source: Source) -> list[str]:
    """After `move=True`: take away what has been saved, links themselves rather than what they lead to.

    A `model.yaml` stays, as its labels and what else it says may not have been saved. Returns what else is left: what
    a process has replaced, or written to after it was copied, and what cannot be removed.
    """
    left = [
        file.disk_path
        for file in source.files
        if file.is_direct and not (_is_as_found(file) and _is_removed(file.disk_path))
    ]
    left += [path for path in source.links if not _is_removed(path)]
    for directory, _, _ in os.walk(source.root, topdown=False):
        files.remove_empty_directory(Path(directory))
    return [path for path in left if os.path.lexists(path)]


def _is_removed(path: str) -> bool:
    try:
        files.remove_file(path)
    except OSError:
        return False
    return True


def is_unchanged(now: os.stat_result | None, found: os.stat_result | None) -> bool:
    """Whether two looks at a file saw the same one, not written to between them; also when neither saw any."""
    if now is None or found is None:
        return now is found
    return _is_same_inode(now, found) and (now.st_size, now.st_mtime_ns) == (found.st_size, found.st_mtime_ns)


def _is_same_inode(now: os.stat_result | None, found: os.stat_result | None) -> bool:
    return now is not None and found is not None and os.path.samestat(now, found)


def _is_as_found(file: SourceFile) -> bool:
    try:
        return is_unchanged(os.lstat(file.disk_path), file.status)
    except FileNotFoundError:
        return False


def _walk(source: Source, directory: str, prefix: str, ancestors: list[tuple[int, int]], is_direct: bool) -> None:
    if len(ancestors) > _MAX_DEPTH:
        raise InvalidSource(f"{directory} is nested more than {_MAX_DEPTH} directories deep")
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _cannot_read(directory, error) from error
    if not found and prefix:
        source.empty_directories.append(prefix.removesuffix("/"))
    has_plain_names = _PLAIN_NAMES.fullmatch("/".join([entry.name for entry in found])) is not None
    for entry in found:
        path = prefix + entry.name
        disk_path = entry.path
        if source.rules is not None and source.rules.leaves_out(entry, prefix):
            continue
        if not has_plain_names:
            _check_name(entry.name, disk_path)
        is_link = entry.is_symlink()
        if is_link and is_direct:
            source.links.append(disk_path)
        try:
            status = entry.stat()
        except OSError as error:
            raise _cannot_read(disk_path, error) from error
        if status.st_ctime_ns > source.changed_ns:
            source.changed_ns = status.st_ctime_ns
        if stat.S_ISDIR(status.st_mode):
            if path == DESCRIPTOR_NAME:
                raise InvalidSource(f"{disk_path} stands where casstore writes its descriptor; rename your directory")
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                raise InvalidSource(f"{disk_path} is a link to a directory that contains it; remove the link")
            source.visits[identity] = source.visits.get(identity, 0) + 1
            if source.visits[identity] > _MAX_VISITS:
                raise InvalidSource(f"links lead to {disk_path} in more than {_MAX_VISITS} ways; remove some")
            _walk(source, disk_path, path + "/", [*ancestors, identity], is_direct and not is_link)
        elif path == DESCRIPTOR_NAME:
            _check_regular(disk_path, status)
            source.descriptor, source.descriptor_status = Path(disk_path), status
        else:
            _add_file(source, path, disk_path, status, is_direct and not is_link)


def _add_file(source: Source, path: str, disk_path: str, status: os.stat_result, is_direct: bool) -> None:
    _check_regular(disk_path, status)
    if status.st_size == 0 and _is_generated(disk_path):
        raise InvalidSource(
            f"{disk_path} says that it is empty and is not, as files do that a kernel or a program makes when they are "
            "read; copy its content into a file, and save that"
        )
    source.files.append(SourceFile(path, disk_path, status, is_direct))


def _is_generated(disk_path: str) -> bool:
    """Whether bytes can be read from a file of size 0."""
    try:
        with files.open_regular(disk_path) as descriptor:
            return bool(os.read(descriptor, 1))
    except OSError:  # the code that reads it will say
        return False


def _check_regular(disk_path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "no regular file")
        raise InvalidSource(f"{disk_path} is {kind}, which cannot be saved; remove it or save another directory")


_KINDS = (
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def _cannot_read(path: files.StrPath, error: OSError) -> InvalidSource:
    if error.errno == errno.ELOOP:
        return InvalidSource(f"{path} is a link that leads back to itself; remove it")
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            return InvalidSource(f"{path} is a link to {os.readlink(path)}, which does not exist; remove or mend it")
        return InvalidSource(f"{path} does not exist")
    return InvalidSource(f"{path} cannot be read: {error.strerror}")


def _check_name(name: str, disk_path: str) -> None:
    if not name.isascii():
        try:
            as_stored(name).encode("utf-8")
        except UnicodeError as error:
            raise InvalidSource(f"the name of {os.fsencode(disk_path)!r} is not UTF-8; rename the file") from error
    if not _NOT_ON_WINDOWS.isdisjoint(name) or name[-1] in ". ":
        warnings.warn(f"Windows cannot hold a file named {name!r}; the version will not open there", stacklevel=2)


def check_collisions(paths: Iterable[str]) -> None:
    """Refuse names that a case-insensitive or normalizing file system could not keep apart. Raises InvalidSource."""
    leaves = list(paths)
    if not _are_plainly_distinct(leaves):
        _check_each(leaves)


def _are_plainly_distinct(leaves: list[str]) -> bool:
    """Whether these paths and the directories above them are ASCII, and differ otherwise than by case."""
    folders = {leaf.rpartition("/")[0] for leaf in leaves}
    above = [folder.rpartition("/")[0] for folder in folders]
    while not folders.issuperset(above):
        folders.update(above)
        above = [folder.rpartition("/")[0] for folder in above]
    names = [DESCRIPTOR_NAME, *leaves, *(folders - {""})]
    return all(map(str.isascii, names)) and len(set(map(str.lower, names))) == len(names)


def _check_each(paths: Iterable[str]) -> None:
    seen = {DESCRIPTOR_NAME: DESCRIPTOR_NAME}
    for each in paths:
        path = as_stored(each)
        while path:
            folded = (
                path.lower()
                if path.isascii()
                else unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
            )
            other = seen.get(folded)
            if other == path:  # then so have been the directories above it
                break
            if other is not None:
                raise InvalidSource(
                    f"{other!r} and {path!r} differ only by case or Unicode form, and many file systems "
                    "hold only one of them; rename one"
                )
            seen[folded] = path
            path = path.rpartition("/")[0]
