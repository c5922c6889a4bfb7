"""Documents of a remote: each is read as it was written, and anything else raises IntegrityError alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore import IntegrityError, Tag, UnsupportedFormat
from casstore.digest import Digest
from casstore.remote import documents, keys
from casstore.remote.backend import MOST_DOCUMENT_BYTES
from casstore.remote.documents import Epoch, Marker, PushEnd, PushOpen, Ref, Seen, Tombstone
from tests.remote.rewriting import rewritten
from tests.remote.test_remote_keys import NUMBERS, PUSHES, tags

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
SMALL = st.integers(0, (1 << 63) - 1)
PUSH = "1" * 32
TAG = Tag("m", "1")


@st.composite
def refs(draw: st.DrawFn) -> Ref:
    push = draw(PUSHES)
    return Ref(
        draw(tags()), draw(DIGESTS), draw(DIGESTS), draw(SMALL), draw(SMALL), draw(DIGESTS),
        draw(st.dictionaries(TEXTS, TEXTS, max_size=3)), keys.segment(push, draw(NUMBERS)), draw(DIGESTS), draw(SMALL),
        push,
    )  # fmt: skip


def ref_of(**fields: Any) -> Ref:
    made: dict[str, Any] = {
        "tag": TAG, "digest": Digest.of(b"d"), "manifest": Digest.of(b"m"), "size": 3, "created_at_ns": 5,
        "described": Digest.of(b"s"), "labels": {"a": "b"}, "segment": keys.segment(PUSH, 4),
        "segment_check": Digest.of(b"h"), "segment_bytes": 200, "push_id": PUSH,
    }  # fmt: skip
    return Ref(**(made | fields))


@given(refs(), NUMBERS)
def test_a_ref_is_read_as_it_was_written(ref: Ref, generation: int) -> None:
    assert Ref.unpack(ref.pack(), ref.tag, "refs/...") == ref
    end = PushEnd(ref.push_id, True, [(keys.ref(ref.tag, generation), ref.pack().decode("utf-8"))])
    assert PushEnd.unpack(end.pack(), ref.push_id) == end


@given(PUSHES, SMALL, st.lists(TEXTS, max_size=3), DIGESTS, TEXTS, st.booleans())
def test_other_documents_are_read_as_they_were_written(
    push: str, number: int, texts: list[str], digest: Digest, by: str, is_single: bool
) -> None:
    assert Marker.unpack(Marker(push, is_single).pack()) == Marker(push, is_single)
    opened = PushOpen(number, texts, digest, by)
    assert PushOpen.unpack(opened.pack(), "pushes/...") == opened
    revoked = PushEnd(push, False, [], by)
    assert PushEnd.unpack(revoked.pack(), push) == revoked
    epoch = Epoch(number, by, frozenset(keys.pack(push, each) for each in range(len(texts))))
    assert Epoch.unpack(epoch.pack(), number) == epoch
    assert documents.unpack("seen", Seen(number).pack(), "key")["epoch"] == number
    assert documents.unpack("tombstone", Tombstone(by, number).pack(), "key")["by"] == by


READERS: dict[str, Callable[[bytes], object]] = {
    "remote": Marker.unpack,
    "ref": lambda body: Ref.unpack(body, TAG, keys.ref(TAG, 0)),
    "push": lambda body: PushOpen.unpack(body, keys.push_open(PUSH)),
    "end": lambda body: PushEnd.unpack(body, PUSH),
    "epoch": lambda body: Epoch.unpack(body, 3),
}
SOUND: dict[str, Any] = {
    "remote": Marker(PUSH),
    "ref": ref_of(),
    "push": PushOpen(1, ["m:1"], Digest.of(b"c"), "me"),
    "end": PushEnd(PUSH, True, [(keys.ref(TAG, 0), ref_of().pack().decode("utf-8"))]),
    "epoch": Epoch(3, "run", frozenset({keys.pack(PUSH, 1)})),
}
VALUES = st.recursive(
    st.none() | st.booleans() | TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", READERS)
@given(body=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_are_refused_by_name(kind: str, body: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"casremote|refs/m/1/0|pushes/1{32}/|gc/3"):
        READERS[kind](body)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_documents_whose_fields_say_anything(kind: str, data: st.DataObject) -> None:
    """With a right `check`, as anybody can write them: they are read, or refused."""
    body = SOUND[kind].pack()
    names = st.sampled_from(sorted(json.loads(body)))
    changes = data.draw(st.dictionaries(names, VALUES | st.just(...), min_size=1, max_size=2))
    try:
        READERS[kind](rewritten(body, changes))
    except IntegrityError as error:
        assert "in the remote is damaged" in str(error) or isinstance(error, UnsupportedFormat)


@pytest.mark.parametrize("kind", READERS)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(kind: str, place: int, bit: int) -> None:
    body = bytearray(SOUND[kind].pack())
    body[place % len(body)] ^= 1 << bit
    with pytest.raises(IntegrityError):
        READERS[kind](bytes(body))


@pytest.mark.parametrize("kind", READERS)
def test_fields_of_a_newer_release_are_ignored_and_needs_are_not(kind: str) -> None:
    body = SOUND[kind].pack()
    assert READERS[kind](rewritten(body, {"newer": [1]})) == SOUND[kind]
    for changes in ({"requires": ["sparse"]}, {"format": 2}, {"hash": "sha256"}):
        with pytest.raises(UnsupportedFormat, match="newer casstore"):
            READERS[kind](rewritten(body, changes))


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"name": "other"}, "name"),
        ({"version": "2"}, "name"),
        ({"segment": keys.segment("2" * 32, 4)}, "segment"),
        ({"segment": "segments/../casremote"}, "segment"),
        ({"segment": keys.pack(PUSH, 4)}, "segment"),
        ({"labels": {"a": 1}}, "labels"),
        ({"size": -1}, "size"),
        ({"size": True}, "size"),
        ({"segment_bytes": 1 << 63}, "segment_bytes"),
        ({"digest": "0" * 63}, "digest"),
    ],
)
def test_a_ref_that_leads_elsewhere(changes: dict[str, Any], wrong: str) -> None:
    with pytest.raises(IntegrityError, match=f"^refs/m/1/0 in the remote is damaged: its {wrong} "):
        READERS["ref"](rewritten(ref_of().pack(), changes))


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"push": "2" * 32}, "push"),
        ({"state": "open"}, "state"),
        ({"refs": [["refs/m/1/0.x", ref_of().pack().decode()]]}, "refs"),
        ({"refs": [["refs/../1/0", ref_of().pack().decode()]]}, "refs"),
        ({"refs": [["casremote", ref_of().pack().decode()]]}, "refs"),
        ({"refs": [["refs/m/1/0"]]}, "refs"),
        ({"refs": [["refs/m/1/0", "{}"]]}, "refs/m/1/0"),
        ({"refs": [["refs/m/2/0", ref_of().pack().decode()]]}, "refs/m/2/0"),
    ],
)
def test_an_end_whose_refs_could_not_be_made(changes: dict[str, Any], wrong: str) -> None:
    """Made by whoever meets it, they would stand for ever."""
    body = SOUND["end"].pack()
    with pytest.raises(IntegrityError, match=f"^{keys.push_end(PUSH)}.*{wrong}"):
        READERS["end"](rewritten(body, changes))


@pytest.mark.parametrize(
    "body",
    [
        b" " * (MOST_DOCUMENT_BYTES + 1),
        b"[" * 1_000_000,
        b'{"check":"","x":"\\ud800"}',
        b"[" + b"[]," * 3_000_000 + b"1]",
        b'{"check":"' + b"1" * 5_000_000 + b'","x":' + b"9" * 5000 + b"}",
    ],
    ids=["long", "deep", "surrogate", "many", "digits"],
)
def test_documents_that_would_take_much_memory(body: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^refs/m/1/0 in the remote is damaged"):
        READERS["ref"](body)
