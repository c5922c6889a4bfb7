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
    references = workspace.catalog.references
    containers = references.containers()
    bad_chunks = set(references.missing_chunks())
    reasons = [f"chunk {digest} is missing from the store" for digest in sorted(bad_chunks)]
    copies: list[str] = []
    chunks = read = 0
    progress.start("verify", sum(size for _, size in containers))
    try:
        for container, size in containers:
            digests = references.chunks_of(container)
            for digest, future in zip(digests, workspace.objects.read_ahead(digests), strict=True):
                try:
                    read += len(future.result())
                    chunks += 1
                except IntegrityError as error:
                    bad_chunks.add(digest)
                    reasons.append(str(error))
            if not digests and container.digest is not None:
                reason = _check_copy(workspace, container, container.digest)
                read += size
                if reason is not None and _is_still_named(workspace, container):
                    copies.append(str(container.path(workspace.layout)))
                    reasons.append(reason)
            progress.advance(size)
    finally:
        progress.finish()
    damage = [Damage(str(tag), path) for tag, path in references.dependents(bad_chunks, set())]
    return VerifyReport(chunks, read, tuple(damage), tuple(copies), tuple(reasons))


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
