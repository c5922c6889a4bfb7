"""The names of parameters, read from a pickle's opcodes: what PyTorch writes, and what nobody should."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from casstore.storage.tensors import parameters
from casstore.storage.tensors.parameters import Strided, find_parameters
from casstore.storage.tensors.zips import read_torch_pickle
from tests import torch_files
from tests.torch_files import ORDERED_DICT, View, mapping, number, pickled, storage, tensor, text

VIEW = View("0", "F32", (2, 3), (3, 1))
PLAIN = Strided("0", "F32", 0, (2, 3), (3, 1))
ONE = tensor(VIEW, 24)


def test_names_are_the_way_from_the_top() -> None:
    found = find_parameters(pickled({"model": mapping({"a.weight": ONE, "b": ONE}), "step": number(7), "t": ONE}))
    assert found == {"model.a.weight": PLAIN, "model.b": PLAIN, "t": PLAIN}


def test_lists_and_numbers_are_names_too() -> None:
    """The state of an optimizer: {"state": {0: {"exp_avg": ...}}, "groups": [{...}]}."""
    state = b"}(K\x00" + mapping({"exp_avg": ONE}) + b"K\x0a(" + ONE + b"]" + ONE + b"atu"
    assert list(find_parameters(pickled({"state": state}))) == ["state.0.exp_avg", "state.10.0", "state.10.1.0"]


def test_an_ordered_dict_is_made_by_a_call() -> None:
    ordered = ORDERED_DICT + b")R(" + text("w") + ONE + b"u" + b"}" + text("_metadata") + b"}sb"
    assert find_parameters(b"\x80\x02" + ordered + b".") == {"w": PLAIN}


def test_a_module_is_walked_by_its_state() -> None:
    """net.encoder.weight of a pickled torch.nn.Module, which is not made."""
    inner = b"cmine\nLayer\n)\x81" + mapping({"training": b"\x88", "_parameters": mapping({"weight": ONE})}) + b"b"
    outer = b"cmine\nNet\n)\x81" + mapping({"_modules": mapping({"encoder": inner}), "cache": ONE}) + b"b"
    assert find_parameters(b"\x80\x02" + outer + b".") == {"encoder.weight": PLAIN, "cache": PLAIN}


def test_a_parameter_is_the_tensor_in_it() -> None:
    wrapped = b"ctorch._utils\n_rebuild_parameter\n(" + ONE + b"\x88" + ORDERED_DICT + b")RtR"
    assert find_parameters(pickled({"w": wrapped})) == {"w": PLAIN}
    typed = b"ctorch._tensor\n_rebuild_from_type_v2\n(" + ONE[: ONE.index(b"(")] + b"ctorch\nTensor\n"
    typed += ONE[ONE.index(b"(") : -1] + b"}tR"
    assert find_parameters(pickled({"w": typed})) == {"w": PLAIN}


def test_shared_storages_views_and_newer_dtypes() -> None:
    views = {
        "whole": View("0", "BF16", (4, 6), (6, 1)),
        "transposed": View("0", "BF16", (6, 4), (1, 6)),
        "row": View("0", "BF16", (6,), (1,), 12),
        "expanded": View("0", "BF16", (9, 6), (0, 1)),
        "scalar": View("0", "BF16", (), ()),
        "none": View("0", "BF16", (0, 3), (3, 1)),
    }
    found = find_parameters(pickled({name: tensor(view, 48) for name, view in views.items()}))
    assert found == {name: Strided("0", "BF16", v.offset, v.shape, v.strides) for name, v in views.items()}
    fp8 = find_parameters(pickled({"w": tensor(View("5", "F8_E4M3", (4, 6), (6, 1)), 24)}))
    assert fp8 == {"w": Strided("5", "F8_E4M3", 0, (4, 6), (6, 1))}


def test_two_tensors_of_one_name_are_told_apart() -> None:
    assert list(find_parameters(b"\x80\x02}(K\x01" + ONE + text("1") + ONE + b"u.")) == ["1", "1 (2)"]


def test_a_memo_is_followed() -> None:
    written = b"\x80\x02" + ONE + b"q\x010}(" + text("a") + b"h\x01" + text("b") + b"r\x05\x00\x00\x00h\x01u."
    assert list(find_parameters(written)) == ["a", "b"]
    assert find_parameters(b"\x80\x02h\x01.") == {}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_whatever_python_pickles_has_no_tensors(protocol: int) -> None:
    values = [
        {"a": [1, -2, 3.5, 1 << 200, b"x", bytearray(b"y"), "z", None, True, {1}, frozenset((2,)), (), (1,)]},
        Path(),
    ]
    assert find_parameters(pickle.dumps(values, protocol)) == {}
    assert find_parameters(pickle.dumps({"f": os.getcwd, 3: 10**40, "l": [[]] * 300}, protocol)) == {}


@pytest.mark.parametrize(
    "view",
    [
        View("0", "F32", (2, 4), (4, 1)),
        View("0", "F32", (6,), (1,), 1),
        View("0", "F32", (2,), (1 << 30,)),
        View("0", "F32", (2, 3), (3,)),
        View("0", "F32", (-1,), (1,)),
        View("0", "F32", (1,) * 65, (1,) * 65),
        View("0", "F32", (1,), (1,), -1),
        View("0", "F8_E5M2", (25,), (1,)),
    ],
)
def test_what_lies_outside_its_storage_has_no_names(view: View) -> None:
    assert find_parameters(pickled({"good": ONE, "w": tensor(view, 24)})) == {}


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\x80\x02",
        b".",
        b"(.",
        b"0.",
        b"(0.",
        b"((1111.",
        b"\x80\x02X\xff\xff\xff\xff.",
        b"\x80\x04\x8d" + b"\xff" * 8 + b".",
        b"\x8b\xff\xff\xff\xff.",
        b"c" + b"a" * 2000 + b"\n" + b"b\n.",
        b"I1\n.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"]" * 100 + b"a" * 99,
        b"}(K\x01u.",
        pickled({"w" * 70_000: ONE}),
        pickled({"w": ONE})[:-1],
        b"\x80\x02}" + b"X\x03\x00\x00\x00\xff\xff\xff" + ONE + b"s.",
    ],
)
def test_hostile_pickles_have_no_names(hostile: bytes) -> None:
    assert find_parameters(hostile) == {}


def test_a_call_is_never_made(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/made",)

    assert find_parameters(pickle.dumps({"w": Evil(), "x": [Evil()]}, 2)) == {}
    assert list(tmp_path.iterdir()) == []


def test_nesting_and_repetition_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "MAX_STEPS", 10_000)
    deep = b"]" * 5000 + b"a" * 4999 + b"."
    assert find_parameters(b"\x80\x02" + deep) == {}
    laughs = b"\x80\x02]" + ONE + b"aq\x00" + b"".join(b"](h\x00h\x00eq\x00" for _ in range(60)) + b"."
    assert find_parameters(laughs) == {}
    itself = b"\x80\x02]q\x00h\x00a" + ONE + b"a."
    assert find_parameters(itself) == {}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what each opcode may make."""
    monkeypatch.setattr(parameters, "MAX_OPCODES", 20_000)
    tracemalloc.start()
    assert find_parameters(b"\x80\x02" + b"}" * (parameters.MAX_OPCODES + 10)) == {}
    assert find_parameters(b"\x80\x02(" + b"](" * 10_000 + b"e" * 10_000) == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 * 200


names = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: "." not in name)
trees = st.recursive(
    st.just(VIEW) | st.integers(-5, 5) | st.none() | st.text(max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(names, below, max_size=3),
    max_leaves=12,
)


def written(value: object) -> bytes:
    if isinstance(value, View):
        return tensor(value, 24)
    if isinstance(value, dict):
        return mapping({key: written(item) for key, item in value.items()})
    if isinstance(value, list):
        return b"](" + b"".join(map(written, value)) + b"e"
    return number(value) if isinstance(value, int) else b"N" if value is None else text(str(value))


def named(value: object, name: str = "") -> list[str]:
    if isinstance(value, View):
        return [name or "tensor"]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for key, item in parts for each in named(item, f"{name}.{key}" if name else str(key))]


@given(trees)
def test_every_tensor_of_a_tree_is_named(tree: object) -> None:
    found = find_parameters(b"\x80\x02" + written(tree) + b".")
    assert list(found) == named(tree)
    assert set(found.values()) <= {PLAIN}


SOUND = pickled({"model": mapping({"a": ONE, "b": ORDERED_DICT + b")R(" + text("c") + ONE + b"u"}), "n": number(3)})


@given(st.binary(max_size=60))
@example(SOUND)
def test_any_bytes_are_read_without_error(raw: bytes) -> None:
    assert isinstance(find_parameters(raw), dict)
    assert isinstance(find_parameters(b"\x80\x02" + raw + b"."), dict)


@given(st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=3))
def test_a_damaged_pickle_is_read_without_error(place: int, change: bytes) -> None:
    damaged = SOUND[:place] + change + SOUND[place + len(change) :]
    for strided in find_parameters(damaged).values():
        reach = sum((size - 1) * stride for size, stride in zip(strided.shape, strided.strides, strict=True))
        assert 0 in strided.shape or strided.offset + reach < 2**31


def test_every_opcode_that_is_known_is_one() -> None:
    """And takes as many bytes as Python says."""
    known = {code for code, step in enumerate(parameters._STEPS) if step is not parameters._refuse}
    assert {ord(opcode.code) for opcode in pickletools.opcodes} > known
    sizes = {
        pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4, pickletools.TAKEN_FROM_ARGUMENT4U: 4,
        pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }  # fmt: skip
    for opcode in pickletools.opcodes:
        argument = opcode.arg
        if ord(opcode.code) not in known or argument is None or argument.n == pickletools.UP_TO_NEWLINE:
            continue
        width = argument.n if argument.n > 0 else sizes[argument.n]
        machine = parameters.Machine(b"\0" * 40)
        machine._stack, machine._memo = [()], {0: ()}
        parameters._STEPS[ord(opcode.code)](machine)
        assert machine._position == width, opcode.name


def test_the_pickle_of_a_file_is_found() -> None:
    made = torch_files.state_dict({"w": VIEW}, {"0": bytes(24)})

    def read(offset: int, length: int) -> bytes:
        return made[offset : offset + length]

    assert read_torch_pickle(read, len(made)) == pickled({"w": ONE})
    big = torch_files.archive(pickled({"w": ONE}), {"0": bytes(24)}, "big")
    assert read_torch_pickle(lambda offset, length: big[offset : offset + length], len(big)) == b""
    assert read_torch_pickle(lambda _, length: bytes(length), 1000) == b""
    damaged = made.replace(struct.pack("<I", len(pickled({"w": ONE}))), b"\xff\xff\xff\x7f")
    assert read_torch_pickle(lambda offset, length: damaged[offset : offset + length], len(damaged)) == b""


def test_a_read_that_fails_is_an_error() -> None:
    def read(offset: int, length: int) -> bytes:
        raise OSError(5, "the disk fails")

    with pytest.raises(OSError, match="the disk fails"):
        read_torch_pickle(read, 1000)


def test_a_storage_of_a_stranger_is_none() -> None:
    for other in (storage("0", "F32", 24).replace(b"storage", b"strange"), b"(tQ", b"NQ"):
        odd = ONE.replace(storage("0", "F32", 24), other)
        assert find_parameters(pickled({"w": odd, "v": ONE})) == {"v": PLAIN}
