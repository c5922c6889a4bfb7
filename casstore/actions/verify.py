"""verify: read every chunk, compare it with its digest, and name what is damaged. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.actions.workspace import Workspace, hash_file
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.progress import Progress
from casstore.storage.container import Container


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a version whose bytes cannot be had any more."""

    tag: str
    path: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verify read and found.

    `damage`: files of versions that are lost. `damaged_copies`: paths of redundant files that are damaged or
    missing, while their bytes are safe elsewhere. `reasons`: one line for each damaged chunk or copy.
    """

    chunks: int
    read_bytes: int
    damage: tuple[Damage, ...]
    damaged_copies: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        return not self.damage and not self.damaged_copies

    @property
    def damaged_tags(self) -> list[str]:
        return sorted({damage.tag for damage in self.damage})


def verify(workspace: Workspace, progress: Progress) -> VerifyReport:
    """Check every chunk where it stands, and every redundant loose file against its blob's digest."""
    workspace.objects.close()  # a container held open would still read well after its file is gone
    references = workspace.catalog.references
    containers = references.containers()
    bad_chunks = {digest: f"chunk {digest} is missing from the store" for digest in sorted(references.missing_chunks())}
    copies: dict[str, str] = {}
    chunks = read = 0
    progress.start("verify", sum(size for _, size in containers))
    try:
        for container, size in containers:
            digests = references.chunks_of(container)
            sound_bytes = 0
            for digest, future in zip(digests, workspace.objects.read_ahead(digests), strict=True):
                try:
                    sound_bytes += len(future.result())
                    chunks += 1
                except IntegrityError as error:
                    bad_chunks[digest] = str(error)
            read += sound_bytes
            # What a loose file holds beside the chunks that are at home in it is a copy, which directories link to.
            if container.digest is not None and sound_bytes < size and bad_chunks.keys().isdisjoint(digests):
                reason = _check_copy(workspace, container, container.digest)
                read += size - sound_bytes
                if reason is not None and _is_still_named(workspace, container):
                    copies[container.path(workspace.layout)] = reason
            progress.advance(size)
    finally:
        progress.finish()
    bad_chunks = _still_bad(workspace, bad_chunks)
    damage = [Damage(str(tag), path) for tag, path in references.dependents(set(bad_chunks), set())]
    return VerifyReport(chunks, read, tuple(damage), tuple(copies), (*bad_chunks.values(), *copies.values()))


def _still_bad(workspace: Workspace, suspects: dict[Digest, str]) -> dict[Digest, str]:
    """Without the chunks that gc has taken since they were looked up, and those that a save has stored anew."""
    unread = {}
    for digest, reason in suspects.items():
        try:
            workspace.objects.read_chunk(digest)
        except IntegrityError:
            unread[digest] = reason
    bad = set(workspace.catalog.index.locate(unread))
    if len(bad) < len(unread):
        bad.update(workspace.catalog.references.missing_chunks())
    return {digest: reason for digest, reason in unread.items() if digest in bad}


def _check_copy(workspace: Workspace, container: Container, digest: Digest) -> str | None:
    path = container.path(workspace.layout)
    try:
        if hash_file(path) == digest:
            return None
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path} does not match its digest; its bytes are safe in other objects"


def _is_still_named(workspace: Workspace, container: Container) -> bool:
    """Whether gc has not taken the file away while verify was reading."""
    return container.file_id in workspace.catalog.index.named([container.file_id])
