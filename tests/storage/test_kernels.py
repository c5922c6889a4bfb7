"""The compiled kernels and those in numpy: the same bytes of all, and the same refusal of what no encoder made."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import functools
import mmap
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from casstore.errors import IntegrityError
from casstore.storage.coding import build_kernels, codec, compiled, delta, entropy, kernels
from casstore.storage.coding.encodings import Encoding
from casstore.storage.coding.plain import Plain
from casstore.storage.tensors.segments import Element
from tests.storage import test_delta as deltas
from tests.storage.test_delta import buffer, changed, link, table_of

COMPILED = compiled.load()
needs_compiled = pytest.mark.skipif(COMPILED is None, reason="casstore was installed without a compiler")
ALL = ("numpy", "compiled", "narrow")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler here")
SOURCE = Path(build_kernels.__file__).with_name("kernels.c")


@functools.cache
def narrow() -> compiled.Compiled | None:
    """The compiled kernels as processors without AVX-512 run them; None where there is no compiler."""
    if COMPILED is None or shutil.which("cc") is None:
        return COMPILED
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        library = Path(place, "narrow.so")
        patch.setenv("CFLAGS", f"-DNARROW {os.environ.get('CASSTORE_TEST_CFLAGS', '')}")
        assert build_kernels.compile_kernels(SOURCE, library) is None
        return compiled.Compiled(ctypes.CDLL(str(library)))


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """These kernels instead of those that the environment chooses."""
    found = Plain() if name == "numpy" else COMPILED if name == "compiled" else narrow()
    assert found is not None
    patch = pytest.MonkeyPatch()
    for module in (codec, delta, entropy):
        patch.setattr(module, "kernels", lambda: found)
    try:
        yield
    finally:
        patch.undo()


def outcome(work: Callable[..., object], *arguments: object) -> object:
    """What comes of it: a value, or an error with its words."""
    try:
        return work(*arguments)
    except IntegrityError as error:
        return type(error), str(error)


def of_all(work: Callable[..., object], *arguments: object) -> object:
    """What comes of it with any of the kernels, which must be the same."""
    outcomes = []
    for name in ALL:
        with using(name):
            outcomes.append(outcome(work, *arguments))
    assert all(each == outcomes[0] for each in outcomes)
    return outcomes[0]


def groups_of(raw: bytes, element: Element) -> tuple[object, list[int]]:
    grouping = delta.Grouping(raw, element)
    return grouping.groups, grouping.group_sizes


def encode_against(raw: bytes, base: bytes, element: Element) -> object:
    return codec.encode(raw, element, codec.Against(base, delta.Grouping(base, element)))


@needs_compiled
@settings(deadline=None, max_examples=300)
@given(deltas.elements, st.tuples(deltas.kinds, deltas.kinds), deltas.counts, deltas.tails, deltas.hows, deltas.seeds)
@example(Element(2, 7, 8), ("weights", "weights"), 131_073, 1, "steps", 0)
@example(Element(4, 23, 8), ("weights", "wide"), 131_073, 3, "steps", 0)
@example(Element(8, 52, 11), ("wide", "noise"), 131_073, 7, "jumps", 0)
@example(Element(2, 10, 5), ("noise", "noise"), 131_073, 7, "jumps", 0)
def test_the_same_bytes(element: Element, of_each: tuple[str, str], count: int, tail: int, how: str, seed: int) -> None:
    base, by = (buffer(kind, element, count, tail % element.width, seed) for kind in of_each)
    raw = changed(base, how, element, seed)
    of_all(groups_of, by, element)
    encoded = of_all(link, raw, base, by, element)
    assert isinstance(encoded, bytes)
    assert of_all(delta.decode_deltas, base, [encoded], by) == raw
    of_all(delta.decode_deltas, base, [encoded] * 3, by)
    of_all(encode_against, raw, base, element)
    encoding, whole = codec.encode(raw, element)
    assert of_all(codec.decode, encoding, whole, len(raw)) == raw


@needs_compiled
@settings(deadline=None, max_examples=100)
@given(st.lists(deltas.elements, min_size=2, max_size=5), deltas.kinds, st.integers(0, 70_000), deltas.hows)
def test_the_same_chains_of_any_groupings(of_links: list[Element], kind: str, size: int, how: str) -> None:
    start = raw = buffer(kind, Element(1), size, 0, 0)
    links = []
    for number, element in enumerate(of_links):
        before, raw = raw, changed(raw, how, element, number)
        links.append(link(raw, before, start, element))
    assert of_all(delta.decode_deltas, start, links, start) == raw


@needs_compiled
@pytest.mark.parametrize("element", [Element(1), Element(1, 2, 5), Element(2), Element(2, 7, 8), Element(2, 0, 11)])
def test_every_pattern_of_bits_from_every_other(element: Element) -> None:
    """Of two bytes, each difference from some patterns."""
    patterns = np.arange(1 << 8 * element.width).astype(f"<u{element.width}")
    raw = np.repeat(patterns, 256 if element.width == 1 else 1).tobytes()
    bases = [np.resize(patterns, len(raw) // element.width), *(np.full_like(patterns, each) for each in (0x7F, 0x80))]
    for base in (each.tobytes() for each in bases if each.nbytes == len(raw)):
        for by in (raw, base):
            encoded = of_all(link, raw, base, by, element)
            assert of_all(delta.decode_deltas, base, [encoded], by) == raw
    assert of_all(codec._decode_planes, codec._encode_planes(raw, 2), len(raw)) == raw


@needs_compiled
@pytest.mark.parametrize("width", [2, 4, 8])
def test_planes_of_every_size_and_at_every_address(width: int) -> None:
    room = np.random.default_rng(1).bytes(9000)
    for size in (*range(40), 1023, 1024 * width, 1024 * width + 1, 4500):
        view = memoryview(room)[size % 11 : size % 11 + size]
        assert COMPILED is not None
        planes = [bytes(plane) for plane in COMPILED.split(view, width)]
        assert planes == [bytes(view[each : size // width * width : width]) for each in range(width)]
        for empty in range(width):
            given_planes = [None if each < empty else plane for each, plane in enumerate(planes)]
            made = [each.join(given_planes, size // width, b"tail") for each in (COMPILED, Plain())]
            assert made[0] == made[1]


mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "truncate", "insert", "delete", "number"]),
        st.integers(0, 300) | st.integers(0, 200_000),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=3,
)


def mutated(encoded: bytes, steps: list[tuple[str, int, bytes]]) -> bytes:
    made = bytearray(encoded)
    for how, place, what in steps:
        at = place % (len(made) + 1)
        match how:
            case "flip":
                made[at : at + 1] = what[:1]
            case "truncate":
                del made[at:]
            case "insert":
                made[at:at] = what
            case "delete":
                del made[at : at + len(what)]
            case "number":
                made[at : at + 4] = struct.pack("<I", [0, 1, 1 << 31, (1 << 32) - 1][what[0] % 4])
    return bytes(made)


@needs_compiled
@settings(deadline=None, max_examples=200)
@given(deltas.victims, mutations)
def test_damaged_deltas_are_refused_alike(
    made: tuple[bytes, bytes, bytes], steps: list[tuple[str, int, bytes]]
) -> None:
    base, _, encoded = made
    other = mutated(encoded, steps)
    of_all(delta.decode_deltas, base, [other], base)
    of_all(delta.decode_deltas, base, [encoded, other, encoded], base)
    of_all(delta.decode_deltas, base[1:], [other], base[:-1])


@needs_compiled
@settings(deadline=None, max_examples=200)
@given(st.sampled_from([2, 4, 8]), st.binary(max_size=80), st.integers(0, 40), mutations, st.integers(-9, 9))
def test_damaged_planes_are_refused_alike(
    width: int, raw: bytes, times: int, steps: list[tuple[str, int, bytes]], more: int
) -> None:
    raw *= times
    encoded = codec._encode_planes(raw, width)
    for each in (encoded, mutated(encoded, steps)):
        of_all(codec.decode, Encoding.PLANES, each, len(raw) + more)


@needs_compiled
@given(st.binary(max_size=200), st.binary(max_size=40), st.integers(0, 255))
def test_arbitrary_bytes_are_refused_alike(encoded: bytes, base: bytes, number: int) -> None:
    of_all(delta.decode_deltas, base, [encoded], base)
    for element in (Element(1), Element(2, 7, 8), Element(8, 52, 11)):
        for head in (bytes([*element, number]), bytes([*element, 1]) + struct.pack("<H", (1 << element[2]) - 1)):
            of_all(delta.decode_deltas, base, [head + encoded], base)


@needs_compiled
def test_headers_tables_and_streams_that_lie_are_refused_alike() -> None:
    """Each byte before the streams set to each of some values, and each length to what is nearly right."""
    for element in (Element(1, 2, 5), Element(2, 7, 8), Element(8, 52, 11)):
        base, _, encoded = deltas.victim(element, 9000, 3)
        start = table_of(encoded)[3]
        accepted = 0
        for at in range(start):
            for value in {0, 1, 2, 63, 64, 65, 255, encoded[at] ^ 1, (encoded[at] + 1) % 256, (encoded[at] - 1) % 256}:
                other = encoded[:at] + bytes([value]) + encoded[at + 1 :]
                accepted += isinstance(of_all(delta.decode_deltas, base, [other], base), bytes)
        # Last keys, and how many groups are dense, may be others at times.
        assert accepted < 0.5 * start * 10


@needs_compiled
def test_kernels_refuse_sizes_that_do_not_fit() -> None:
    """Whatever is handed in, and not only what gets past the checks of the format."""
    assert COMPILED is not None
    element = Element(2, 7, 8)
    raw = buffer("weights", element, 20_000, 0, 1)
    order = COMPILED.order(raw, element, [100, 120, 255])
    assert sum(order.sizes) == 20_000
    whole = bytes(20_000)
    lying: list[tuple[int, bytes | None, list[bytes | None], int]] = [
        (0, None, [None, None], 1),
        (1, None, [None, None], 0),
        (20_001, None, [None, None], 20_001),
        (20_000, None, [whole, None], 20_001),
        (20_000, b"", [whole[:-1], None], 20_000),
        (0, bytes(2499), [None, None], 0),
        (0, bytes(2500), [None, None], 1),
        (0, b"\xff" * 2500, [whole, whole], 19_999),
        (0, b"\xff" * 2500, [b"12345", None], 5),
        (0, b"\xff" * 2500, [None, None], 0),
        (0, b"\xff" * 2500, [whole + b"1", None], 20_001),
        (7, b"\xff" * 2500, [whole, None], 20_001),
    ]
    for sparse_from, bit_map, planes, values in lying:
        with pytest.raises(IntegrityError):
            order.sum().add(sparse_from, bit_map, planes, values)
    with pytest.raises(IntegrityError):
        order.differences(raw, raw[:-1])
    with pytest.raises(IntegrityError):
        order.sum().put_back(raw[:-1], b"")
    with pytest.raises(IntegrityError):
        COMPILED.count_set(b"1", 9)
    for last_keys in ([100, 120], [*range(64), 255], [0, 0, 0]):
        with pytest.raises(IntegrityError):
            COMPILED.order(raw, element, last_keys)
    for odd in (Element(3, 0, 8), Element(2, 9, 8), Element(2, -1, 8), Element(2, 0, 12)):
        with pytest.raises(IntegrityError):
            COMPILED.order(raw, odd, [1, (1 << odd.exponent_bits) - 1])


@needs_compiled
@pytest.mark.parametrize("count", [20_000, 64 * 300])
def test_groups_that_run_over_are_refused(count: int) -> None:
    """Sizes and numbers of groups are of one call, and still nothing is read or written elsewhere."""
    assert COMPILED is not None
    raw = buffer("weights", Element(2, 7, 8), count, 0, 1)
    order = COMPILED.order(raw, Element(2, 7, 8), [100, 120, 255])
    numbers, sizes = order.numbers, order.lane_sizes
    for number in (0, 1, 2, 3, 63, 64, 255):
        order.numbers = bytes([number]) * count
        # Wrong numbers of groups that there are may lead to places that there are.
        with contextlib.suppress(IntegrityError) if number < 3 else pytest.raises(IntegrityError):
            order.sum().put_back(raw, b"")
        with contextlib.suppress(IntegrityError) if number < 3 else pytest.raises(IntegrityError):
            order.differences(raw, raw)
    order.numbers = numbers
    for size in (0, count - 1, count + 1, (1 << 32) - 1):
        for at in (0, 3 * 64, len(sizes) - 1):
            order.lane_sizes = type(sizes)()
            order.lane_sizes[at] = size
            with pytest.raises(IntegrityError):
                order.sum().put_back(raw, b"")
            with pytest.raises(IntegrityError):
                order.differences(raw, raw)


def fenced(content: bytes) -> memoryview:
    """A copy that ends where memory begins that nobody may read or write: to touch it ends the process."""
    pages = -(-len(content) // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    library = ctypes.CDLL(None)
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert library.mprotect(start + pages * mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    view = memoryview(memory)[pages * mmap.PAGESIZE - len(content) : pages * mmap.PAGESIZE]
    view[:] = content
    return view


@needs_compiled
@pytest.mark.parametrize("element", [Element(1, 2, 5), Element(2, 7, 8), Element(4, 23, 8), Element(8, 50, 8)])
def test_nothing_is_touched_beyond_the_ends_of_buffers(element: Element, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sanitizers do not see what those instructions touch that leave out some of 64 bytes."""
    made = [each for each in (COMPILED, narrow()) if each is not None]
    last_keys = [*range(3, 27, 4), (1 << element.exponent_bits) - 1]
    for count in (*range(3), 63, 64, 65, 1087, 4161):
        raw, base, by = (buffer(kind, element, count, 0, 1) for kind in ("noise", "weights", "noise"))
        for changes in (raw, changed(base, "jumps", element, 1)):
            found = Plain().order(by, element, last_keys).differences(changes, base)
            for kernels_of in made:
                with monkeypatch.context() as patch:
                    patch.setattr(compiled, "_fresh", fenced_array)
                    order = kernels_of.order(fenced(by), element, last_keys)
                    values = len(found.planes[0])
                    total = order.sum()
                    for _ in range(2):
                        total.add(
                            sum(order.sizes[: found.dense]), fenced(bytes(found.bit_map)),
                            [fenced(bytes(plane)) for plane in found.planes], values,
                        )  # fmt: skip
                    once = bytes(total.put_back(fenced(base), b""))
                    # Sizes that lie lead no further.
                    with contextlib.suppress(IntegrityError):
                        order.sum().add(0, fenced(b"\xff" * (-(-count // 8))), [fenced(b"1")] * element.width, 1)
                    with contextlib.suppress(IntegrityError):
                        order.numbers = fenced(b"\6" * count).tobytes()
                        total.put_back(fenced(base), b"")
                doubled = 2 * elements(changes, element) - elements(base, element)
                assert elements(once, element).tolist() == doubled.tolist()


def elements(raw: bytes, element: Element) -> np.ndarray:
    return np.frombuffer(raw, f"<u{element.width}")


def fenced_array(size: int) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * size).from_buffer(fenced(bytes(size)))


def test_numpy_is_chosen_by_the_environment_and_where_nothing_was_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    try:
        kernels.kernels.cache_clear()
        monkeypatch.setenv("CASSTORE_KERNELS", "numpy")
        assert kernels.kernels().name == "numpy"
        monkeypatch.delenv("CASSTORE_KERNELS")
        kernels.kernels.cache_clear()
        assert (kernels.kernels().name == "compiled") == (COMPILED is not None)
        for content in (None, b"", b"no library", Path(ctypes.__file__).read_bytes()):
            monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "_kernels.lib.so")
            if content is not None:
                compiled.LIBRARY.write_bytes(content)
            kernels.kernels.cache_clear()
            assert kernels.kernels().name == "numpy"
    finally:
        kernels.kernels.cache_clear()


@needs_compiler
def test_libraries_of_another_release_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "_kernels.lib.so")
    monkeypatch.setenv("CFLAGS", "-O0")
    source = tmp_path / "kernels.c"
    source.write_text(SOURCE.read_text())
    assert build_kernels.compile_kernels(source, compiled.LIBRARY) is None
    assert compiled.load() is not None
    own = f"#define INTERFACE {compiled._INTERFACE}"
    for other in ("#define INTERFACE 99", f"{own}\n#define casstore_add other_add"):
        made = tmp_path / f"{len(other)}.so"
        monkeypatch.setattr(compiled, "LIBRARY", made)
        source.write_text(SOURCE.read_text().replace(own, other))
        assert build_kernels.compile_kernels(source, made) is None
        assert compiled.load() is None


@needs_compiled
def test_the_library_is_of_this_source() -> None:
    """Else the other tests would try what was there before: `pip install -e .` builds it again."""
    assert ctypes.CDLL(str(compiled.LIBRARY)).casstore_source() & 0xFFFFFFFF == zlib.crc32(SOURCE.read_bytes())


@pytest.mark.parametrize("compiler", ["/bin/false", "/nowhere/cc", "cc --no-such-option"])
def test_a_compiler_that_fails_leaves_no_library(
    compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    library = tmp_path / "_kernels.lib.so"
    library.write_bytes(b"of before")
    fault = build_kernels.compile_kernels(SOURCE, library)
    assert fault is not None
    assert compiler.split()[0] in fault
    assert os.listdir(tmp_path) == []


@needs_compiler
@pytest.mark.crash
def test_the_library_needs_nothing_that_a_machine_may_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No flags of one processor, and no warning."""
    monkeypatch.setenv("CFLAGS", "-Wall -Wextra -Wconversion -Werror")
    assert build_kernels.compile_kernels(SOURCE, tmp_path / "_kernels.lib.so") is None
    assert not any("march" in flag or "mtune" in flag for flag in build_kernels._FLAGS)


def test_only_the_kernels_in_numpy_need_numpy() -> None:
    """Whose import takes longer than reading a small version."""
    sources = {path.name: ast.parse(path.read_text()) for path in Path(kernels.__file__).parent.glob("*.py")}
    need = {
        name
        for name, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) and any(alias.name.startswith("numpy") for alias in node.names)
    }
    assert need == {"plain.py"}
