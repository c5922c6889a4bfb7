"""Whether a loose file can be trusted, and linking trusted ones: a file may be written to through its other links."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import resource
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from casstore.actions.workspace import Workspace, hash_file
from casstore.catalog.index import Fingerprint, LooseFile
from casstore.digest import Digest
from casstore.storage import files
from casstore.storage.container import Container, FileStamp
from casstore.storage.descriptors import Descriptor

_log = logging.getLogger(__name__)
# Of 1,000 files of 70 KiB, noting that a link was taken away took 24 ms, and reading them would take as long.
_NOTED_FROM_BYTES = 1 << 20
_NOTHING_NOTED: Mapping[Fingerprint, Digest] = MappingProxyType({})


def find(workspace: Workspace, digest: Digest, executable: bool) -> list[LooseFile]:
    """The loose files of a blob, executable or plain."""
    return workspace.catalog.index.loose_files([digest]).get((digest, executable), [])


def link(
    workspace: Workspace,
    candidates: list[LooseFile],
    target: files.StrPath,
    *,
    hash_first: bool = False,
    noted: Mapping[Fingerprint, Digest] = _NOTHING_NOTED,
) -> FileStamp | None:
    """Make `target` a hardlink of the first of these loose files that is as it was stored.

    A file is hashed first if `hash_first` says so, if it was not synced and comes from another boot, or if it has been
    touched. None if there is no such file or no link can be made. `noted`: files that the caller has linked.
    """
    for loose, path in _sound(workspace, candidates, hash_first, noted):
        try:
            is_linked = files.try_link(path, target)
        except FileNotFoundError:
            _discard(workspace, loose, path)
            continue
        if is_linked:
            status = os.lstat(target)
            if files.is_executable(status) == loose.container.executable:
                return FileStamp.of(status)
            files.remove_file(target)  # its mode was lost when the store was copied, or changed by a user
    return None


@contextlib.contextmanager
def unlinking(
    workspace: Workspace,
    directory: files.StrPath,
    recorded: Mapping[str, FileStamp],
    noted: dict[Fingerprint, Digest],
) -> Iterator[None]:
    """For a `with` block that removes a directory: what is known of the larger loose files that are linked there stays.

    A link that goes changes their change time, as a write does, and they would be read once more for it. `noted`: takes
    what is to be remembered, of files that nobody could write to meanwhile. `recorded`: the stamps of what was put
    there.
    """
    with contextlib.ExitStack() as stack:
        held = []
        for path, seen, digest in _known(workspace, directory, recorded):
            with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
                descriptor = opened.enter_context(files.open_regular(path, follow=False))
                files.begin_lease(descriptor)
                opened.callback(_end_lease, descriptor)
                if Fingerprint.of(os.fstat(descriptor)) == seen:
                    held.append((descriptor, seen, digest))
                    stack.push(opened.pop_all())
        yield
        for descriptor, seen, digest in held:
            now = Fingerprint.of(os.fstat(descriptor))
            if _end_lease(descriptor) and now._replace(ctime_ns=seen.ctime_ns) == seen:
                noted[now] = digest


def _end_lease(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return files.end_lease(descriptor)
    return False


def _known(
    workspace: Workspace, directory: files.StrPath, recorded: Mapping[str, FileStamp]
) -> Iterator[tuple[str, Fingerprint, Digest]]:
    """The paths of the larger loose files that are linked in a directory, and what is known of them."""
    larger = sorted((stamp.size, stamp.inode) for stamp in recorded.values() if stamp.size >= _NOTED_FROM_BYTES)
    try:
        device = os.lstat(directory).st_dev
    except OSError:
        return
    index = workspace.catalog.index
    known = index.fingerprints({(device, inode) for _, inode in larger[-_most_noted() :]})
    rows = itertools.chain.from_iterable(index.loose_files(set(known.values())).values())
    standing = {(row.stamp.inode, row.container.digest): row.container.path(workspace.layout) for row in rows}
    for seen, digest in known.items():
        if (seen.inode, digest) in standing:
            yield standing[seen.inode, digest], seen, digest


def _most_noted() -> int:
    """Each file takes a descriptor for a while, and removing a directory needs some."""
    return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 16)


def reflink(
    workspace: Workspace,
    candidates: list[LooseFile],
    target: files.StrPath,
    *,
    hash_first: bool = True,
    noted: Mapping[Fingerprint, Digest] = _NOTHING_NOTED,
) -> FileStamp | None:
    """Make `target` a new file that shares the blocks of the first of these loose files that is sound.

    `hash_first` and `noted` are as in `link`. None if there is no such file, or no blocks can be shared.
    """
    for loose, path in _sound(workspace, candidates, hash_first, noted):
        try:
            with open(path, "rb") as source, files.create_file(target) as descriptor:
                if files.try_reflink(source.fileno(), descriptor):
                    files.set_mode(descriptor, workspace.file_mode(loose.container.executable))
                    return FileStamp.of(os.fstat(descriptor))
        except FileNotFoundError:
            _discard(workspace, loose, path)
            continue
        files.remove_file(target)
        return None
    return None


def open_one(workspace: Workspace, candidates: list[LooseFile]) -> Descriptor | None:
    """The first of these loose files that is as it was stored, open for reading; None if there is none."""
    for loose, path in _sound(workspace, candidates, False, _NOTHING_NOTED):
        try:
            return files.open_regular(path)
        except FileNotFoundError:
            _discard(workspace, loose, path)
    return None


def is_intact(workspace: Workspace, container: Container, size: int, noted: Mapping[Fingerprint, Digest]) -> bool:
    """Whether a container's file is there and whole and, if it is a loose file, was not written to.

    A loose file that was touched is read. `noted`: files that the caller has linked.
    """
    path = container.path(workspace.layout)
    index = workspace.catalog.index
    try:
        if container.is_pack:
            return os.stat(path).st_size == size
        status = os.stat(path)
        stamps = {loose.container.id: loose.stamp for loose in find(workspace, container.blob, container.executable)}
        is_as_stored = stamps.get(container.id) == FileStamp.of(status)
        if is_as_stored and _is_untouched(workspace, status, container, noted):
            return True
        if status.st_size != size or hash_file(path) != container.blob:
            return False
    except FileNotFoundError:
        return False
    if not is_as_stored:
        index.restamp_loose(container, FileStamp.of(status))
    index.remember({Fingerprint.of(status): container.blob})
    return True


def _sound(
    workspace: Workspace, candidates: list[LooseFile], hash_first: bool, noted: Mapping[Fingerprint, Digest]
) -> Iterator[tuple[LooseFile, str]]:
    """The loose files among these that can be trusted, with their paths; the others are discarded."""
    for loose in candidates:
        path = loose.container.path(workspace.layout)
        try:
            if _is_unchanged(workspace, loose, path, hash_first, noted):
                yield loose, path
            else:
                _discard(workspace, loose, path)
        except FileNotFoundError:
            _discard(workspace, loose, path)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            _discard(workspace, loose, path)  # a bad sector; the chunks may be elsewhere


def _discard(workspace: Workspace, loose: LooseFile, path: str) -> None:
    """Forget a damaged or missing copy, so that it is made again; a damaged file goes to quarantine."""
    if workspace.catalog.index.forget_redundant(loose.container):
        kept = workspace.layout.quarantine / os.path.basename(path)
        try:
            files.rename(path, kept)
        except FileNotFoundError:
            _log.info("a copy of stored bytes is gone and will be made again: %s", path)
        else:
            _log.info("a copy of stored bytes was damaged, was moved to %s, and will be made again", kept)


def _is_unchanged(
    workspace: Workspace, loose: LooseFile, path: str, hash_first: bool, noted: Mapping[Fingerprint, Digest]
) -> bool:
    status = os.lstat(path)
    stamp = FileStamp.of(status)
    is_as_stored = stamp == loose.stamp and (loose.synced or loose.boot_id == workspace.catalog.boot_id)
    if is_as_stored and not hash_first and _is_untouched(workspace, status, loose.container, noted):
        return True
    if stamp.size != loose.stamp.size or hash_file(path) != loose.container.digest:
        return False
    if not is_as_stored:
        workspace.catalog.index.restamp_loose(loose.container, stamp)
    return True


def _is_untouched(
    workspace: Workspace, status: os.stat_result, container: Container, noted: Mapping[Fingerprint, Digest]
) -> bool:
    """Whether a loose file has not been touched at all since casstore last linked or read it, or took a link away.

    A user may have written to it and put its modification time back. A link that another program removes counts as
    touching, too: then the file is read once more.
    """
    now = Fingerprint.of(status)
    known = noted if now in noted else workspace.catalog.index.fingerprints([(now.device, now.inode)])
    return known.get(now) == container.digest
