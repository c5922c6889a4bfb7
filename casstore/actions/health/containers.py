"""What containers hold: every chunk in its own, and the copies that loose files are beside those."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from casstore.actions.health.findings import Findings, Scope
from casstore.actions.workspace import Workspace, hash_file
from casstore.digest import Digest
from casstore.errors import IntegrityError, StoreError
from casstore.progress import Progress
from casstore.storage import files, pack
from casstore.storage.container import Container

# Reading is bound by the disk or by the decoder; more threads than this make neither faster.
_MOST_THREADS = 8


class _InContainer(NamedTuple):
    """A chunk in its container, and the bytes that it takes there."""

    container: Container
    digest: Digest
    length: int


@dataclass(frozen=True, slots=True)
class _Selection:
    """The containers that are looked at, with their sizes: all, or those of a scope and of these what it needs."""

    workspace: Workspace
    scope: Scope | None
    sized: Sequence[tuple[Container, int]]

    @classmethod
    def of(cls, workspace: Workspace, scope: Scope | None) -> _Selection:
        sized = workspace.catalog.references.containers() if scope is None else scope.containers
        return cls(workspace, scope, sized)

    def missing(self) -> Collection[Digest]:
        """The chunks that are needed and have no row."""
        if self.scope is None:
            return self.workspace.catalog.references.missing_chunks()
        return self.scope.chunks - self.workspace.catalog.index.locate(self.scope.chunks).keys()

    def chunks_of(self, container: Container) -> list[_InContainer]:
        chunks = self.workspace.catalog.references.chunks_of(container)
        return [
            _InContainer(container, digest, length)
            for digest, length in chunks
            if self.scope is None or digest in self.scope.chunks
        ]

    def chunks(self) -> Iterator[_InContainer]:
        """All of them, each looked up when it is asked for: there may be millions."""
        return itertools.chain.from_iterable(self.chunks_of(container) for container, _ in self.sized)

    def blobs(self) -> list[tuple[Container, int]]:
        """The loose files that are to be what their digests say as a whole, with their sizes."""
        return [
            (each, size)
            for each, size in self.sized
            if not each.is_pack and (self.scope is None or each.blob in self.scope.blobs)
        ]

    def read_bytes(self) -> int:
        """About how much there is to read. Of a scope's packs only what it needs is, so these are not counted."""
        return sum(size for _, size in (self.sized if self.scope is None else self.blobs()))


@dataclass(slots=True)
class _ReadInContainers:
    """What reading chunks has shown: those that are `bad`, with the reason, the containers that these are in, and of
    each container how many bytes its own chunks take."""

    bad: dict[Digest, str] = field(default_factory=dict)
    damaged: set[Container] = field(default_factory=set)
    taken: Counter[Container] = field(default_factory=Counter)
    read_chunks: int = 0
    read_bytes: int = 0


def threads() -> int:
    """How many threads reading everything takes."""
    return max(2, min(_MOST_THREADS, os.cpu_count() or 1))


def inspect_containers(
    workspace: Workspace, found: Findings, progress: Progress, *, quick: bool, scope: Scope | None = None
) -> None:
    """Look for chunks that are damaged or missing, and for damaged copies of them."""
    workspace.objects.close()  # a container held open would still read well after its file is gone
    selection = _Selection.of(workspace, scope)
    found.chunks = {digest: f"chunk {digest} is missing from the store" for digest in sorted(selection.missing())}
    if quick:
        _stat_containers(workspace, found, selection)
    else:
        _read_containers(workspace, found, progress, selection)
        found.chunks = _still_bad(workspace, found.chunks)


def _stat_containers(workspace: Workspace, found: Findings, selection: _Selection) -> None:
    for container, size in selection.sized:
        path = container.path(workspace.layout)
        try:
            stands = os.stat(path).st_size
            reason = "" if stands == size else f"{path} has {stands} bytes and should have {size}"
        except OSError as error:
            files.raise_unless_damage(error)
            stands, reason = 0, f"{path}: {error.strerror}"
        if reason and _is_still_named(workspace, container):
            # In one that has become longer, what it should hold may be there.
            chunks = selection.chunks_of(container) if stands < size else []
            found.chunks.update((chunk.digest, reason) for chunk in chunks)
            if not chunks:
                found.files[container] = reason


def _read_containers(workspace: Workspace, found: Findings, progress: Progress, selection: _Selection) -> None:
    """Every chunk where it stands, then what loose files hold beside the chunks whose containers they are: copies,
    which directories link to. What is sound is noted as read."""
    began_ns = time.time_ns()
    progress.start("verify", selection.read_bytes())
    try:
        read = _read_chunks(workspace, selection.chunks(), progress)
        sound = [(container, size) for container, size in selection.sized if container not in read.damaged]
        found.files |= _bad_frames(workspace, sound)
        copies = [
            (each, size - read.taken[each])
            for each, size in selection.blobs()
            if read.taken[each] < size and each not in read.damaged
        ]
        found.files |= _bad_copies(workspace, copies, progress)
    finally:
        progress.finish()
    found.chunks |= read.bad
    found.read_chunks += read.read_chunks
    found.read_bytes += read.read_bytes + sum(unread for _, unread in copies)
    if selection.scope is None:
        _note_read(workspace, (container.id for container, _ in sound if container not in found.files), began_ns)


def _read_chunks(workspace: Workspace, chunks: Iterator[_InContainer], progress: Progress) -> _ReadInContainers:
    read = _ReadInContainers()
    chunks, ahead = itertools.tee(chunks)
    with contextlib.closing(workspace.objects.read_ahead((each.digest for each in ahead), threads())) as reads:
        for (_, future), chunk in zip(reads, chunks, strict=True):
            read.taken[chunk.container] += chunk.length
            try:
                read.read_bytes += len(future.result())
                read.read_chunks += 1
            except (IntegrityError, OSError) as error:
                files.raise_unless_damage(error)
                read.bad[chunk.digest] = _reason(error, chunk.digest, chunk.container, workspace)
                read.damaged.add(chunk.container)
            progress.advance(chunk.length)
    return read


def _bad_frames(workspace: Workspace, sized: Iterable[tuple[Container, int]]) -> dict[Container, str]:
    """Those of the containers in which something is wrong beside their chunks."""
    reasons = {container: _check_frame(workspace, container, size) for container, size in sized}
    return {each: reason for each, reason in reasons.items() if reason and _is_still_named(workspace, each)}


def _bad_copies(
    workspace: Workspace, copies: Sequence[tuple[Container, int]], progress: Progress
) -> dict[Container, str]:
    """Those of the loose files that are not what their digests say. Each comes with the bytes that nobody has read."""
    bad = {}
    with ThreadPoolExecutor(threads()) as pool:
        checks = pool.map(lambda copy: _check_copy(workspace, copy[0]), copies)
        for (container, unread), reason in zip(copies, checks, strict=True):
            if reason and _is_still_named(workspace, container):
                bad[container] = reason
            progress.advance(unread)
    return bad


def _note_read(workspace: Workspace, sound: Iterable[int], at_ns: int) -> None:
    # On a full disk, or beside a process that writes for long, what was found counts, and not the note of it.
    with contextlib.suppress(OSError, StoreError):
        if not workspace.catalog.read_only:
            workspace.catalog.index.note_read(sound, at_ns)


def _reason(error: Exception, digest: Digest, container: Container, workspace: Workspace) -> str:
    if isinstance(error, OSError):
        return f"chunk {digest} in {container.path(workspace.layout)} cannot be read: {error.strerror}"
    return str(error)


def _still_bad(workspace: Workspace, suspects: dict[Digest, str]) -> dict[Digest, str]:
    """Without the chunks that gc has taken since they were looked up, and those that a save has stored again."""
    unread = {}
    for digest, reason in suspects.items():
        try:
            workspace.objects.read_chunk(digest)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            unread[digest] = reason
    bad = set(workspace.catalog.index.locate(unread))
    if len(bad) < len(unread):
        bad.update(workspace.catalog.references.missing_chunks())
    return {digest: reason for digest, reason in unread.items() if digest in bad}


def _check_frame(workspace: Workspace, container: Container, size: int) -> str:
    """What is wrong with a container beside its chunks: its size, or what a rebuilding reads of a pack."""
    path = container.path(workspace.layout)
    try:
        if os.stat(path).st_size != size:
            return f"{path} has {os.stat(path).st_size} bytes and should have {size}"
        if container.is_pack:
            pack.check_frame(path)
    except IntegrityError as error:
        return f"{path}: {error}; its chunks are safe"
    except OSError as error:
        files.raise_unless_damage(error)
        return f"{path}: {error.strerror}"
    return ""


def _check_copy(workspace: Workspace, container: Container) -> str:
    path = container.path(workspace.layout)
    try:
        if hash_file(path) == container.digest:
            return ""
    except OSError as error:
        files.raise_unless_damage(error)
        return f"{path}: {error.strerror}"
    return f"{path} does not match its digest; its bytes are safe in other objects"


def _is_still_named(workspace: Workspace, container: Container) -> bool:
    """Whether gc has not taken the file away meanwhile."""
    return workspace.catalog.index.is_live(container)
