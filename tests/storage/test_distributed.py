"""`.metadata` of torch.distributed.checkpoint, and the archives that it leads to: any bytes end soon, without harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.storage.tensors import distributed
from casstore.storage.tensors.distributed import Place, find_distributed, find_places
from tests.torch_files import Stored, View, checkpoint_of, instance, number, one_tensor, text
from tests.torch_files import distributed as metadata

ONE = one_tensor(View("0", "F32", (2,), (1,)), bytes(8))
FILES = checkpoint_of({"a": [("x.w", (0,), ONE), ("y", None, ONE)], "b": [("x.w", (2,), ONE)]})


def reader(data: bytes):
    return lambda offset, length: data[offset : offset + length]


def test_what_it_says() -> None:
    assert find_places(FILES[".metadata"]) == {
        "a": [Place("x.w", (0,), 0, len(ONE)), Place("y", None, len(ONE), len(ONE))],
        "b": [Place("x.w", (2,), 0, len(ONE))],
    }
    found = find_distributed(reader(FILES["a"]), len(FILES["a"]), find_places(FILES[".metadata"])["a"])
    assert {name: (place.offset, tensor.shape) for name, (place, tensor) in found.items()} == {
        "x.w[0:2]": (0, (2,)),
        "y": (len(ONE), (2,)),
    }


@given(st.data())
def test_mutated_metadata(data: st.DataObject) -> None:
    raw = bytearray(FILES[".metadata"])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                raw[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    for places in find_places(bytes(raw)).values():
        find_distributed(reader(FILES["a"]), len(FILES["a"]), places)


@given(st.lists(st.tuples(st.integers(-10, 3000), st.integers(-10, 3000))))
def test_places_anywhere(spans: list[tuple[int, int]]) -> None:
    places = [Place(str(number), None, *span) for number, span in enumerate(spans)]
    found = find_distributed(reader(FILES["a"]), len(FILES["a"]), places)
    assert all(place.length >= len(ONE) for place, _ in found.values())


def test_what_is_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often one archive is named."""
    read = []

    def counting(offset: int, length: int) -> bytes:
        read.append(length)
        return ONE[offset : offset + length]

    places = [Place(str(number), None, 0, len(ONE)) for number in range(100)]
    assert len(find_distributed(counting, len(ONE), places)) == 100
    each = sum(read) / 100
    monkeypatch.setattr(distributed, "MAX_READ_BYTES", int(10 * each))
    assert len(find_distributed(counting, len(ONE), places)) == 10
    monkeypatch.setattr(distributed, "MAX_ARCHIVES", 2)
    assert find_places(metadata(Stored(str(number), "a", 0, 1) for number in range(3))) == {}


def test_names_are_bounded_together() -> None:
    """A pickle holds a long name once, and says it of many parts."""
    name = b"\x80\x02" + text("n" * 60_000) + b"q\xff0"
    entries = b"".join(
        instance(b"m\na", {"fqn": b"h\xff", "offset": number(each) + b"\x85"})
        + instance(b"m\nb", {"relative_path": text("a"), "offset": number(0), "length": number(len(ONE))})
        for each in range(300)
    )
    storage = {"storage_data": b"}(" + entries + b"u"}
    assert find_places(name + instance(b"m\nc", storage) + b".") == {}


def test_lists_that_hold_another_twice_end_soon() -> None:
    """What a pickle makes is not walked, so that its size does not count."""
    twice = b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (number, number, number) for number in range(60)) + b"."
    assert find_places(twice) == {}
