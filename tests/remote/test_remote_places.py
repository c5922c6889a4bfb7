"""Where the chunks of a version are: which ranges a pull asks for, and what a push makes of what others brought."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.actions.exchange.push import _There
from casstore.digest import Digest
from casstore.remote import records
from casstore.remote.records import plan, total_bytes
from casstore.remote.segment import HEADER_BYTES, ChunkPlace, PackInfo, Segment, needed
from casstore.storage.container import MAX_DELTA_LINKS
from tests.remote.segments import DELTA, KEY, digests, manifest_of, segments
from tests.remote.test_remote_segments import checked


@given(segments(most=15), st.data())
def test_a_plan_covers_what_is_wanted_once_and_bases_first(segment: Segment, data: st.DataObject) -> None:
    here = data.draw(st.sets(st.sampled_from(sorted(segment.chunks))))
    asked = data.draw(st.lists(st.sampled_from(sorted(segment.chunks)), unique=True))
    wanted = needed(asked, segment.chunks, here)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_WINDOW_BYTES", data.draw(st.integers(1, 1 << 20)))
        runs = plan(segment, asked, here)
    come: set[Digest] = set(here)
    for run in runs:
        end = run.start
        for digest in run.digests:
            place = segment.chunks[digest]
            assert place.pack == run.pack
            assert run.start <= place.offset
            assert place.offset + place.length <= run.end
            assert place.offset - end <= records._GAP_BYTES
            assert {place.base, place.grouping} - {None} <= come
            end = max(end, place.offset + place.length)
            come.add(digest)
        assert run.end == end
        assert run.length <= records._RUN_BYTES or len(run.digests) == 1
    assert sorted(digest for run in runs for digest in run.digests) == sorted(wanted)
    lengths = sum(segment.chunks[digest].length for digest in wanted)
    assert total_bytes(runs) <= lengths + records._GAP_BYTES * len(wanted)


def test_records_side_by_side_are_one_request() -> None:
    named = digests(1000)
    places = {digest: ChunkPlace(0, 16 + 4000 * at, 4000, 100, 0) for at, digest in enumerate(named)}
    pack = PackInfo(KEY, 1 << 30, Digest.of(b""))
    segment = Segment(manifest_of([[(digest, 100) for digest in named]]), [pack], places)
    assert len(plan(segment, named)) == 1
    assert len(plan(segment, named[::60])) == 1
    assert len(plan(segment, named[::70])) == 15


@st.composite
def pushed_apart(draw: st.DrawFn) -> Sequence[Segment]:
    """Segments of versions with common chunks, each with chains of its own over packs of its own."""
    found = []
    for number in range(draw(st.integers(2, 3))):
        segment = draw(segments(most=6, raw_bytes=[100]))
        packs = [info._replace(key=info.key.replace("/0", f"/{number}", 1)) for info in segment.packs]
        found.append(Segment(segment.manifest, packs, segment.chunks))
    return found


@pytest.mark.crash
@settings(max_examples=50)
@given(pushed_apart(), st.data())
def test_chains_of_versions_that_were_pushed_apart(apart: Sequence[Segment], data: st.DataObject) -> None:
    """A push may rely on any of them; what it makes of them can be read, and needs nothing that is condemned."""
    known = sorted({info.key for segment in apart for info in segment.packs})
    condemned = data.draw(st.frozensets(st.sampled_from(known), max_size=2))
    there = _There(condemned)
    for segment in apart:
        there.add_segment(segment)
    for segment in apart:
        try:
            made = there.segment(segment.manifest)
        except KeyError:
            # What it may not rely on, as what is grouped by a delta here, it brings again.
            assert condemned or segment is not apart[0]
            continue
        assert condemned.isdisjoint(info.key for info in made.packs)
        packed = made.pack()
        read = Segment.unpack(packed, Digest.of(packed[:HEADER_BYTES]), KEY)
        assert read.chunks == made.chunks
        checked(read)
        for digest, place in made.chunks.items():
            assert (made.packs[place.pack], place._replace(pack=0)) in [
                (each.packs[each.chunks[digest].pack], each.chunks[digest]._replace(pack=0))
                for each in apart
                if digest in each.chunks
            ]


def test_two_that_each_say_that_the_other_is_the_base() -> None:
    one, two = digests(2)
    whole, delta = ChunkPlace(0, 16, 148, 100, 0), ChunkPlace(0, 200, 148, 100, DELTA, one, one)
    manifest = manifest_of([[(one, 100), (two, 100)]])
    packs = [[PackInfo(f"packs/{number:032x}/0.pack", 1 << 20, Digest.of(b""))] for number in range(2)]
    first = Segment(manifest, packs[0], {one: whole, two: delta})
    second = Segment(manifest, packs[1], {two: whole, one: delta._replace(base=two, grouping=two)})
    for order in ([first, second], [second, first]):
        there = _There(frozenset())
        for segment in order:
            there.add_segment(segment)
        assert there.segment(manifest).packs == order[0].packs
    there = _There(frozenset(info.key for info in packs[0]))
    for segment in (first, second):
        there.add_segment(segment)
    assert there.segment(manifest).packs == packs[1]
    assert max(there.segment(manifest).depths.values()) <= MAX_DELTA_LINKS
