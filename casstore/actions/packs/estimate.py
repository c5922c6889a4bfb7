"""How much packing cold loose files would take, estimated by encoding them or, if they are large, a sample of them."""

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

# The size of the sample: half a second's work, spread evenly over the columns.
_SAMPLE_BYTES = 128 << 20
# A column may be as long as a model has versions; the sample takes its beginning: the first chunk and deltas upon it.
_SAMPLE_LENGTH = 12
# A record's header and its entry in the index; and, in both, each digest that a delta needs.
_RECORD_BYTES, _DELTA_LINK_BYTES = 104, 66
# Header and trailer of one pack. There may be several packs, which makes no visible difference.
_PACK_BYTES = 100


def packed_bytes(workspace: Workspace, marks: Marks, cold: Sequence[ColdFile]) -> int:
    """An estimate of the bytes of the packs that would take what is needed of these files. It changes nothing.

    It assumes that chunks of one dtype shrink alike, separately for those with and without a predecessor. If all of
    them fit in the sample, the result is exact except for a few bytes per chunk.
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
    """Encoded chunks by kind (see `Columns.kinds`): their raw bytes, and the bytes of their records."""

    def __init__(self) -> None:
        self._raw_bytes: Counter[Kind] = Counter()
        self._encoded_bytes: Counter[Kind] = Counter()

    @property
    def size(self) -> int:
        return self._raw_bytes.total()

    def lacks(self, column: list[PlannedChunk]) -> bool:
        """Whether a column has at its beginning a kind that the sample lacks."""
        return any(self._raw_bytes[_kind(chunk)] == 0 for chunk in column[:_SAMPLE_LENGTH])

    def take(self, workspace: Workspace, column: list[PlannedChunk]) -> None:
        """Encode the chunks of a column, except damaged ones, which packing leaves where they are."""
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
        """An estimate of what that many raw bytes of a kind take; as many if no chunk of the kind could be read."""
        raw = self._raw_bytes[kind]
        return size if raw == 0 else size * self._encoded_bytes[kind] // raw


def _kind(chunk: PlannedChunk) -> Kind:
    return chunk.dtype, chunk.predecessor is not None


def _record_bytes(chunk: EncodedChunk) -> int:
    links = {chunk.base, chunk.grouping} - {None}
    return _RECORD_BYTES + len(links) * _DELTA_LINK_BYTES + len(chunk.data)
