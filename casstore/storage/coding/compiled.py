"""The compiled kernels: calls into kernels.c, which was built when casstore was installed, if it was.

A library without Python in it, called through ctypes, serves every release of Python, and lets go of the interpreter's
lock for a whole call, of which a chunk takes a few. Nothing here imports numpy, so that reading a packed version needs
none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from casstore.errors import IntegrityError
from casstore.storage.coding.arithmetic import Buffer, Differences
from casstore.storage.tensors.segments import Element

# With a second dot, or Python would take it for a module.
LIBRARY = Path(__file__).with_name("_kernels.lib.so")

# Of kernels.c: a library that was built from another one is not used.
_INTERFACE = 2
_LANES = 4
_MOST_GROUPS = 64
_MOST_KEYS = 2048
# Wide machines take time for each group, others for each element.
_MOST_WIDE_GROUPS = 32
_Sizes = ctypes.c_uint32 * (_LANES * _MOST_GROUPS)
_Planes = c_void_p * 8

_SIGNATURES: dict[str, list[Any]] = {
    "interface": [],
    "is_wide": [],
    "count_set": [c_void_p, c_size_t, c_size_t],
    "is_zeros": [c_void_p, c_size_t],
    "byte_counts": [c_void_p, c_size_t, c_size_t, c_void_p],
    "key_counts": [c_void_p, c_size_t, c_int, c_int, c_int, c_size_t, c_void_p],
    "group": [c_void_p, c_size_t, c_int, c_int, c_int, c_void_p, c_int, c_void_p, c_void_p],
    "encode": [*[c_void_p] * 3, c_size_t, c_int, c_void_p, c_int, *[c_void_p] * 4],
    "add": [c_void_p, c_size_t, c_int, c_int, c_size_t, c_void_p, c_size_t, c_void_p, c_size_t],
    "put_back": [*[c_void_p] * 3, c_size_t, c_int, c_void_p, c_void_p, c_size_t, c_void_p],
    "split": [c_void_p, c_size_t, c_int, c_void_p],
    "join": [c_void_p, c_size_t, c_int, c_void_p, c_size_t, c_void_p],
}


class _View(ctypes.Structure):
    """Py_buffer, which is part of Python's stable interface."""

    _fields_ = [
        ("buf", c_void_p), ("obj", c_void_p), ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
        ("readonly", c_int), ("ndim", c_int), ("format", c_void_p), ("shape", c_void_p), ("strides", c_void_p),
        ("suboffsets", c_void_p), ("internal", c_void_p),
    ]  # fmt: skip


def _python_function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    # A prototype of its own: that of `ctypes.pythonapi.NAME` is shared with all who use it.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_get_buffer = _python_function("PyObject_GetBuffer", c_int, ctypes.py_object, c_void_p, c_int)
_release_buffer = _python_function("PyBuffer_Release", None, c_void_p)
_new_bytes = _python_function("PyBytes_FromStringAndSize", ctypes.py_object, c_void_p, ctypes.c_ssize_t)


def _fresh(size: int) -> bytes:
    """Bytes for a kernel to fill before anything else sees them: what they hold until then is anything.

    Python's documented way of making bytes in C. Results need not be copied into bytes, which would be done under the
    interpreter's lock.
    """
    made: bytes = _new_bytes(None, size)
    return made


class _Held:
    """Holds buffers in their places while a kernel works on them."""

    def __init__(self) -> None:
        self._views: list[_View] = []

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        for view in self._views:
            _release_buffer(ctypes.byref(view))

    def at(self, buffer: Buffer) -> bytes | int:
        """Where it begins, as ctypes takes it."""
        return buffer if isinstance(buffer, bytes) else self.address(buffer)

    def address(self, buffer: Buffer) -> int:
        """Where it begins, as a number."""
        view = _View()
        _get_buffer(buffer, ctypes.byref(view), 0)
        self._views.append(view)
        return view.buf or ctypes.addressof(_NOWHERE)

    def planes(self, planes: Sequence[Buffer | None], size: int) -> Any:
        """Where these planes begin. Raises IntegrityError where one of them is shorter than `size`."""
        if any(plane is not None and len(plane) < size for plane in planes):
            raise IntegrityError("a byte plane is too short")
        return _Planes(*(None if plane is None else self.address(plane) for plane in planes))


# Where an empty buffer is, which Python may say is nowhere.
_NOWHERE = ctypes.c_uint64()


class Compiled:
    """Kernels in C (see `arithmetic`)."""

    name = "compiled"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {}
        for name, arguments in _SIGNATURES.items():
            function = library[f"casstore_{name}"]
            function.argtypes, function.restype = arguments, c_int64
            self._functions[name] = function
        self.is_wide = bool(self.call("is_wide"))

    def call(self, name: str, *arguments: Any) -> int:
        """What a kernel gives. Raises IntegrityError where it found that sizes do not fit."""
        result: int = self._functions[name](*arguments)
        if result < 0:
            raise IntegrityError("the sizes in an encoded chunk do not fit each other")
        return result

    def key_counts(self, raw: Buffer, element: Element, every: int) -> list[int]:
        """How often each key is among those of every so many elements."""
        counts = (ctypes.c_uint32 * _MOST_KEYS)()
        with _Held() as held:
            self.call("key_counts", held.at(raw), len(raw) // element.width, *element, every, counts)
        return counts[: 1 << element.exponent_bits]

    def order(self, raw: Buffer, element: Element, last_keys: Sequence[int]) -> CompiledOrder:
        """The order by groups."""
        return CompiledOrder(self, raw, element, last_keys)

    def count_set(self, bit_map: Buffer, size: int) -> int:
        """How many of the first bits are set."""
        with _Held() as held:
            return self.call("count_set", held.at(bit_map), len(bit_map), size)

    def split(self, raw: Buffer, width: int) -> list[Buffer]:
        """The planes of all whole elements."""
        count = len(raw) // width
        planes = _fresh(count * width)
        with _Held() as held:
            self.call("split", held.at(raw), count, width, planes)
        return _slices(planes, count, width, count)

    def join(self, planes: Sequence[Buffer | None], count: int, tail: Buffer) -> bytes:
        """A chunk from its planes."""
        width = len(planes)
        raw = _fresh(count * width + len(tail))
        with _Held() as held:
            self.call("join", held.planes(planes, count), count, width, held.at(tail), len(tail), raw)
        return raw

    def is_zeros(self, plane: Buffer) -> bool:
        """Whether all bytes are 0."""
        with _Held() as held:
            return bool(self.call("is_zeros", held.at(plane), len(plane)))

    def byte_counts(self, plane: Buffer, every: int) -> list[int]:
        """How often each byte is among every so many."""
        counts = (ctypes.c_uint32 * 256)()
        with _Held() as held:
            self.call("byte_counts", held.at(plane), len(plane), every, counts)
        return counts[:]


class CompiledOrder:
    """An order as each element's group, and how many of each group there are in each lane of the kernels."""

    def __init__(self, kernels: Compiled, raw: Buffer, element: Element, last_keys: Sequence[int]) -> None:
        self.kernels = kernels
        self.width = element.width
        self.count = len(raw) // element.width
        self.numbers: bytes | None = None
        self.lane_sizes = _Sizes(self.count)
        if len(last_keys) > 1:
            self.numbers = _fresh(self.count)
            keys = (ctypes.c_uint16 * len(last_keys))(*last_keys)
            with _Held() as held:
                kernels.call(
                    "group", held.at(raw), self.count, *element, keys, len(last_keys), self.numbers, self.lane_sizes
                )
        self.sizes = [sum(self.lane_sizes[group::_MOST_GROUPS]) for group in range(len(last_keys))]

    def differences(self, raw: Buffer, base: Buffer) -> Differences:
        """How one chunk differs from another."""
        count, width, groups = self.count, self.width, len(self.sizes)
        if min(len(raw), len(base)) < count * width:
            raise IntegrityError("a chunk is shorter than what it is grouped by")
        bit_map, planes = _fresh((count + 7) // 8), _fresh(count * width)
        is_wide = self.kernels.is_wide and width in (2, 4) and groups <= _MOST_WIDE_GROUPS
        room = None if is_wide else _fresh(count * width)
        nonzero = (ctypes.c_uint64 * _MOST_GROUPS)()
        with _Held() as held:
            dense = self.kernels.call(
                "encode", held.at(raw), held.at(base), self.numbers, count, width, self.lane_sizes, groups, room,
                bit_map, planes, nonzero,
            )  # fmt: skip
        in_map = sum(self.sizes[dense:])
        values = sum(self.sizes[:dense]) + sum(nonzero[dense:groups])
        found = _slices(planes, count, width, values)
        return Differences(dense, nonzero[:groups], memoryview(bit_map)[: (in_map + 7) // 8], found)

    def sum(self) -> CompiledSum:
        """A sum of nothing yet."""
        return CompiledSum(self)


class CompiledSum:
    """Differences that add up."""

    def __init__(self, order: CompiledOrder) -> None:
        self._order = order
        self._total = _fresh(order.count * order.width)
        self._is_empty = True

    def add(self, sparse_from: int, bit_map: Buffer | None, planes: Sequence[Buffer | None], values: int) -> None:
        """Add one link's differences."""
        order = self._order
        with _Held() as held:
            bits, size = (None, 0) if bit_map is None else (held.at(bit_map), len(bit_map))
            order.kernels.call(
                "add", self._total, order.count, order.width, self._is_empty, sparse_from, bits, size,
                held.planes(planes, values), values,
            )  # fmt: skip
        self._is_empty = False

    def put_back(self, base: Buffer, tail: Buffer) -> bytes:
        """The chunk that the sum leads to."""
        order = self._order
        if self._is_empty:
            self.add(0, None, [None] * order.width, 0)
        if len(base) < order.count * order.width:
            raise IntegrityError("a chunk is shorter than what it is grouped by")
        raw = _fresh(order.count * order.width + len(tail))
        with _Held() as held:
            order.kernels.call(
                "put_back", self._total, held.at(base), order.numbers, order.count, order.width,
                order.lane_sizes, held.at(tail), len(tail), raw,
            )  # fmt: skip
        return raw


def _slices(planes: bytes, stride: int, width: int, size: int) -> list[Buffer]:
    view = memoryview(planes)
    return [view[each * stride : each * stride + size] for each in range(width)]


def load() -> Compiled | None:
    """The compiled kernels; None where there are none, or of another release."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if library.casstore_interface() != _INTERFACE:
            return None
        return Compiled(library)
    except (OSError, AttributeError):
        return None
