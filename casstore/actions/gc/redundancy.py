"""Before gc takes a copy away: the bytes are read in their containers, and stored again where they are damaged."""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from casstore.actions.directories.standing import link_among
from casstore.actions.packs.bases import encode_chunk
from casstore.actions.packs.builder import PackBuilder
from casstore.actions.workspace import Workspace
from casstore.catalog.marks import Marks
from casstore.catalog.versions import NewContainer, VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.progress import SILENT, Progress
from casstore.storage import files
from casstore.storage.container import LINK_FROM_BYTES, Container
from casstore.storage.manifest import FileEntry
from casstore.storage.tensors.elements import BYTES, Element, element_of

_BATCH = 200  # blobs whose recipes are held at once

# What a chunk is made of, and the blob by which it was met.
_Pieces = dict[Digest, tuple[Element, Digest]]


class Redundancy:
    """What one gc has read in the containers of chunks. `healed`: chunks that it has found damaged there, and stored
    again from a copy."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._began_ns = time.time_ns()
        self._sound: set[Digest] = set()
        self._lost: set[Digest] = set()  # nobody has them
        self._unhealed: set[Digest] = set()  # some copy has them, and the disk is full
        self._kept_for: set[Digest] = set()
        self._secured: dict[int, bool] = {}  # by version
        self.healed = 0

    @property
    def damaged(self) -> int:
        """How many damaged chunks there are for which it has left a copy of their files where it is."""
        return len(self._kept_for)

    def removable(self, marks: Marks, candidates: Iterable[Container], progress: Progress = SILENT) -> list[Container]:
        """Those of the containers that nothing needs, and of which no needed chunk is damaged elsewhere.

        Raises OSError.
        """
        unneeded = marks.unneeded(candidates)
        copies = iter([each for each in unneeded if not each.is_pack])
        kept: set[Container] = set()
        while batch := list(islice(copies, _BATCH)):
            kept |= self._kept(marks, batch, progress)
        return [each for each in unneeded if each not in kept]

    def _kept(self, marks: Marks, copies: Sequence[Container], progress: Progress) -> set[Container]:
        pieces = self._pieces({each.blob for each in copies})
        needed = marks.needed({digest for each in pieces.values() for digest in each})
        self._secure({d: piece for each in pieces.values() for d, piece in each.items() if d in needed}, progress)
        damaged = needed & (self._lost | self._unhealed)
        self._kept_for |= damaged
        return {each for each in copies if not damaged.isdisjoint(pieces[each.blob])}

    def secure(self, row: VersionRow) -> bool:
        """See to it that what stands in a version's directory, and is no link to a loose file, is sound in its
        containers.

        False where it cannot be stored there. Once done, the answer is at hand. Raises OSError.
        """
        if row.id not in self._secured:
            self._secured[row.id] = self._is_secure(row)
        return self._secured[row.id]

    def _is_secure(self, row: VersionRow) -> bool:
        index = self._workspace.catalog.index
        entries = self._workspace.catalog.versions.files(row.id)
        loose = index.loose_files({file.digest for file in entries if file.size >= LINK_FROM_BYTES})
        directory = self._workspace.layout.model(row.tag)

        def is_link(file: FileEntry) -> bool:
            candidates = loose.get((file.digest, file.executable), ())
            return link_among(self._workspace, f"{directory}/{file.path}", candidates) is not None

        own = iter({file.digest for file in entries if file.size and not is_link(file)})
        while batch := set(islice(own, _BATCH)):
            pieces = {digest: piece for each in self._pieces(batch).values() for digest, piece in each.items()}
            self._secure(pieces, SILENT)
            if not self._unhealed.isdisjoint(pieces):
                return False
        return True

    def note(self) -> None:
        """Record which containers have been read whole."""
        self._workspace.catalog.index.note_read_chunks(self._sound, self._began_ns)

    def _pieces(self, blobs: Collection[Digest]) -> dict[Digest, _Pieces]:
        """By blob, its chunks. One without a recipe is a chunk itself, or nothing needs it any more."""
        pieces: dict[Digest, _Pieces] = {blob: {blob: (BYTES, blob)} for blob in blobs}
        for blob, recipe in self._workspace.catalog.index.recipes(blobs).items():
            segments = [(element_of(segment.dtype), segment.chunks) for segment in recipe.segments]
            pieces[blob] = {digest: (element, blob) for element, chunks in segments for digest, _ in chunks}
        return pieces

    def _secure(self, pieces: _Pieces, progress: Progress) -> None:
        """Read these chunks in their containers, unless that was done since gc began, and heal what is damaged."""
        known = self._sound | self._lost | self._unhealed
        unread = [digest for digest in pieces if digest not in known]
        since = self._read_since(unread)
        damaged = []
        progress.start("check", None)
        try:
            for digest, future in self._workspace.objects.read_ahead(d for d in unread if d not in since):
                try:
                    progress.advance(len(future.result()))
                    self._sound.add(digest)
                except (IntegrityError, OSError) as error:
                    files.raise_unless_damage(error)
                    damaged.append(digest)
        finally:
            progress.finish()
        if damaged:
            self._heal({digest: pieces[digest] for digest in damaged})

    def _read_since(self, digests: Collection[Digest]) -> set[Digest]:
        """Those in containers that have been written, or read whole, since gc began."""
        index = self._workspace.catalog.index
        containers = index.usable_containers(digests)
        times = index.read_times(set(containers.values()))
        return {digest for digest, container in containers.items() if (times.get(container) or 0) >= self._began_ns}

    def _heal(self, damaged: _Pieces) -> None:
        """Store damaged chunks again, from whatever copy of them there is, in packs which become their containers."""
        unhealed = set(damaged)

        def repoint(new: NewContainer) -> None:
            self._workspace.catalog.repacking.repoint(new)
            unhealed.difference_update(chunk.digest for chunk in new.chunks)
            self.healed += len(new.chunks)

        with self._workspace.session() as session:
            try:
                with PackBuilder(self._workspace, session, repoint, durable=True) as packs:
                    for digest, (element, blob) in damaged.items():
                        raw = self._workspace.objects.rescued(digest, blob)
                        if raw is None:
                            self._lost.add(digest)
                        else:
                            packs.add(encode_chunk(self._workspace, digest, raw, element, None))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
        self._unhealed |= unhealed - self._lost
