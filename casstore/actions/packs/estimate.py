"""What packing would make of cold loose files, told by encoding them or, of much, a sample of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from casstore.actions.packs.repack import Column, Encoded, arrange, arranged
from casstore.actions.workspace import Workspace
from casstore.catalog.columns import Kind, PlannedChunk
from casstore.catalog.marks import ColdFile, Marks
from casstore.storage import files
from casstore.storage.pack import EncodedChunk

# About what is encoded of more: half a second's work, spread evenly over the columns.
_SAMPLE_BYTES = 128 << 20
# Of a column, which may be as long as a model has versions, the beginning: its first chunk, and deltas upon it.
_SAMPLE_LENGTH = 12
# A record's header and its entry in the index; and, in both, each digest of what a delta needs.
_RECORD_BYTES, _LINK_BYTES = 104, 66
# Header and trailer of a pack. That there may be several makes no difference that one could see.
_PACK_BYTES = 100


def packed_bytes(workspace: Workspace, marks: Marks, cold: Sequence[ColdFile]) -> int:
    """About the bytes of the packs that take in what is needed of these files; 0 for none. It changes nothing.

    Chunks of one dtype, and those with and without a predecessor, are taken to shrink alike. Where all of them fit in
    the sample, the answer is exact but for a few bytes a chunk.
    """
    if not cold:
        return 0
    sample = _Sample()
    with marks.columns(cold) as columns:
        arrange(workspace, columns)
        kinds = columns.kinds()
        chunks, size = (sum(each) for each in zip(*kinds.values(), strict=True))
        length = chunks if size <= _SAMPLE_BYTES else _SAMPLE_LENGTH
        most = columns.count() * min(length, math.ceil(chunks / columns.count())) * size // chunks
        step = math.ceil(most / _SAMPLE_BYTES)
        for number, column in enumerate(arranged(columns)):
            if number % step == 0 or sample.lacks(column):
                sample.take(workspace, column[:length])
    return _PACK_BYTES + sum(sample.scaled(kind, size) for kind, (_, size) in kinds.items())


class _Sample:
    """Encoded chunks by kind, as `Columns.kinds` tells these apart: their raw bytes, and those of their records."""

    def __init__(self) -> None:
        self._raw_bytes: Counter[Kind] = Counter()
        self._encoded_bytes: Counter[Kind] = Counter()

    @property
    def size(self) -> int:
        return self._raw_bytes.total()

    def lacks(self, column: list[PlannedChunk]) -> bool:
        """Whether a column has a kind at its beginning that nothing is known of yet."""
        return any(self._raw_bytes[_kind(chunk)] == 0 for chunk in column[:_SAMPLE_LENGTH])

    def take(self, workspace: Workspace, column: list[PlannedChunk]) -> None:
        """Encode the chunks of a column, but for damaged ones, which packing leaves where they are."""
        kinds = {chunk.digest: _kind(chunk) for chunk in column}

        def note(item: Encoded | BaseException) -> None:
            if isinstance(item, Encoded):
                kind = kinds[item.chunk.digest]
                self._raw_bytes[kind] += item.chunk.raw_bytes
                self._encoded_bytes[kind] += _record_bytes(item.chunk)

        try:
            Column(workspace, column, note).encode()
        except OSError as error:
            files.raise_unless_damage(error)

    def scaled(self, kind: Kind, size: int) -> int:
        """About what that many bytes of a kind take: as many where none of it could be read."""
        raw = self._raw_bytes[kind]
        return size if raw == 0 else size * self._encoded_bytes[kind] // raw


def _kind(chunk: PlannedChunk) -> Kind:
    return chunk.dtype, chunk.predecessor is not None


def _record_bytes(chunk: EncodedChunk) -> int:
    links = {chunk.base, chunk.grouping} - {None}
    return _RECORD_BYTES + len(links) * _LINK_BYTES + len(chunk.data)
