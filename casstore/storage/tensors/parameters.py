"""The tensors of a PyTorch pickle by the names of its parameters, read from its opcodes. Nothing is unpickled, ever.

A small machine follows what the pickle would build: dicts, lists, tuples, texts and numbers as they are, and any call
as a record of it that is never made. Of calls only those are understood by which PyTorch makes a tensor of a storage
(torch/_utils.py, `_rebuild_tensor_v2` and its kin); the name of a tensor is the way to it from the top, such as
"model.encoder.0.weight". Whatever breaks a rule or a limit here has no names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from casstore.storage.tensors.pickled import MAX_LINE_BYTES, MAX_MEMO, STORAGE_DTYPES
from casstore.storage.tensors.segments import (
    ELEMENT_BITS,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    HeaderError,
    check_shape,
)

# A tensor of a state dict takes about 30. What an opcode makes takes up to 120 bytes, so that this is under 250 MB.
MAX_OPCODES = 2_000_000
# Of the way to a tensor. Modules nest some ten deep, each in two dicts of its parent's.
MAX_DEPTH = 100
# What is met on all ways together: a list that holds another twice, which holds another twice ... has ways without end.
MAX_STEPS = 1_000_000
MAX_NAME_CHARACTERS = 16 << 20  # of all names together
NAMELESS = "tensor"  # what a tensor is called that is all that a pickle holds

_DTYPES = {
    "float64": "F64", "double": "F64", "float32": "F32", "float": "F32", "float16": "F16", "half": "F16",
    "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0", "int64": "I64", "long": "I64", "int32": "I32",
    "int": "I32", "int16": "I16", "short": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32",
    "uint64": "U64", "bool": "BOOL", "complex32": "C32", "complex64": "C64", "complex128": "C128",
}  # fmt: skip
_UNTYPED = "torch.storage UntypedStorage"
# What stands in a module's own state between it and what is in it.
_OF_MODULES = {"_modules", "_parameters", "_buffers"}


class Strided(NamedTuple):
    """A tensor as PyTorch keeps it: elements of the storage `key`, from the offset on, each dimension by its stride.

    Offset and strides count elements. `dtype` is None where it is not known. `is_plain`: its elements are those of the
    storage; of one that PyTorch has lazily conjugated or negated they are not.
    """

    key: str
    dtype: str | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    is_plain: bool = True


def find_parameters(pickle: bytes) -> dict[str, Strided]:
    """Name to tensor, in the pickle's order; empty for a pickle that breaks any rule. Bounded in time and memory."""
    try:
        return _named(Machine(pickle).run())
    except (ValueError, TypeError, LookupError, struct.error, RecursionError):
        return {}


class _Global(NamedTuple):
    path: str
    """Module and name, separated by a blank, as in pickle's GLOBAL."""


class _Storage(NamedTuple):
    dtype: str | None
    key: str
    elements: int  # of a storage without a type: bytes


@dataclass(slots=True)
class Map:
    """A dict."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Made:
    """What a call would make, with what is then set in it."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    state: Any = None


class _Opaque:
    """A value that holds no tensor."""


_OPAQUE = _Opaque()


def _named(top: Any) -> dict[str, Strided]:
    found: dict[str, Strided] = {}
    characters = 0
    for name, tensor in _walk(top):
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name} ({number})"
        characters += len(unique)
        if characters > MAX_NAME_CHARACTERS or len(unique.encode()) > MAX_NAME_BYTES or len(found) >= MAX_TENSORS:
            raise HeaderError("the names are too long, or too many")
        found[unique] = tensor
    return found


def _walk(top: Any) -> Iterator[tuple[str, Strided]]:
    """Every tensor below `top` with its name, in order."""
    pending: list[tuple[str, int, Any]] = [("", 0, top)]
    steps = 0
    while pending:
        name, depth, value = pending.pop()
        steps += 1
        if isinstance(value, Strided):
            yield name or NAMELESS, value
            continue
        parts = _parts(value)
        if depth >= MAX_DEPTH or steps + len(pending) + len(parts) > MAX_STEPS or len(name) > MAX_NAME_BYTES:
            raise HeaderError("the pickle nests too deep, or its parts are met too often")
        for key, part in reversed(parts):
            pending.append((f"{name}.{key}" if name and key else name or key, depth + 1, part))


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What a value holds that may hold tensors, each with its key; an empty one for what needs no name."""
    if isinstance(value, Map):
        return _keyed(value.pairs)
    if isinstance(value, list | tuple) and not isinstance(value, _Global | _Storage):
        return [(str(number), item) for number, item in enumerate(value) if _may_hold(item)]
    if not isinstance(value, Made):
        return []
    parts = [*_keyed(value.pairs), *((str(number), item) for number, item in enumerate(value.items) if _may_hold(item))]
    if isinstance(value.state, Map):
        parts += [("" if key in _OF_MODULES else key, item) for key, item in _keyed(value.state.pairs)]
    return parts


def _keyed(pairs: list[tuple[Any, Any]]) -> list[tuple[str, Any]]:
    return [(str(key), item) for key, item in pairs if type(key) in (str, int) and _may_hold(item)]


def _may_hold(value: Any) -> bool:
    return isinstance(value, Strided | Map | Made | list | tuple)


# How PyTorch makes a tensor; each of the first kind begins with storage, offset, size and stride.
_OF_STORAGE = {f"torch._utils {name}": name for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")}
_AROUND = {"torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"}
_OF_TYPE = "torch._tensor _rebuild_from_type_v2"
_SIZE = "torch Size"  # a tuple


def _called(function: Any, arguments: Any) -> Any:
    """What stands for the result of a call, which is not made."""
    if not isinstance(function, _Global) or type(arguments) is not tuple:
        return Made()
    if function.path == _SIZE and len(arguments) == 1 and type(arguments[0]) is tuple:
        return arguments[0]
    if function.path == _OF_TYPE and len(arguments) >= 3:
        function, arguments = arguments[0], arguments[2]
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            return Made()
    if function.path in _AROUND and arguments:
        return arguments[0]
    if function.path in _OF_STORAGE and len(arguments) >= 4 and isinstance(arguments[0], _Storage):
        dtype, is_v3 = None, function.path.endswith("_v3")
        if is_v3 and len(arguments) >= 7 and isinstance(arguments[6], _Global):
            module, _, name = arguments[6].path.partition(" ")
            dtype = _DTYPES.get(name) if module == "torch" else None
        made = _strided(arguments[0], arguments[1:4], dtype)
        return made if all(map(_says_nothing, arguments[7 if is_v3 else 6 :])) else made._replace(is_plain=False)
    return Made()


def _says_nothing(metadata: Any) -> bool:
    """Whether what PyTorch says of a tensor last, such as {"conj": True}, leaves its elements as they are stored."""
    return metadata is None or (isinstance(metadata, Map) and all(said is False for _, said in metadata.pairs))


def _strided(storage: _Storage, place: tuple[Any, ...], dtype: str | None) -> Strided:
    offset, shape, strides = place
    if type(offset) is not int or type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise HeaderError("a tensor's place in its storage is none")
    shape, strides = check_shape(shape), check_shape(strides)
    if offset < 0 or len(shape) > MAX_DIMENSIONS:
        raise HeaderError("a tensor lies outside its storage")
    elements = storage.elements
    if storage.dtype is None and dtype is not None:
        elements //= ELEMENT_BITS[dtype] // 8
    reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if prod(shape) and reach > elements and (storage.dtype or dtype) is not None:
        raise HeaderError("a tensor lies outside its storage")
    return Strided(storage.key, storage.dtype or dtype, offset, shape, strides)


class Machine:
    """Runs a pickle's opcodes over records: Map, Made, Strided and others.

    `run` raises ValueError, TypeError, LookupError or struct.error.
    """

    def __init__(self, pickle: bytes) -> None:
        self._data = pickle
        self._position = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What stands for the object that the pickle holds."""
        data, steps = self._data, _STEPS
        for _ in range(MAX_OPCODES):
            code = data[self._position]
            self._position += 1
            if code == _STOP:
                return self._pop()
            steps[code](self)
        raise HeaderError("the pickle has too many opcodes")

    def _take(self, length: int) -> bytes:
        start = self._position
        self._position += length
        if length < 0 or self._position > len(self._data):
            raise HeaderError("the pickle is cut short")
        return self._data[start : self._position]

    def _number(self, length: int) -> int:
        return int.from_bytes(self._take(length), "little")

    def _byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1]

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _push_byte(self) -> None:
        self._stack.append(self._byte())

    def _put_byte(self) -> None:
        self._put(self._byte())

    def _get_byte(self) -> None:
        self._stack.append(self._memo[self._byte()])

    def _line(self) -> str:
        end = self._data.index(b"\n", self._position, self._position + MAX_LINE_BYTES)
        line = self._take(end - self._position)
        self._position += 1
        return line.decode()

    def _pop(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise HeaderError("the pickle takes what is not there")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        members = self._stack[start:]
        del self._stack[start:]
        return members

    def _push_text(self, length_bytes: int) -> None:
        self._stack.append(self._take(self._number(length_bytes)).decode("utf-8", "surrogatepass"))

    def _opaque(self, length: int) -> None:
        """A value that is part of no name: bytes, or a float."""
        self._take(length)
        self._stack.append(_OPAQUE)

    def _integer(self, length_bytes: int) -> None:
        raw = self._take(self._number(length_bytes))
        self._stack.append(int.from_bytes(raw, "little", signed=True) if len(raw) <= 16 else _OPAQUE)

    def _put(self, number: int) -> None:
        if len(self._memo) >= MAX_MEMO:
            raise HeaderError("the pickle has too long a memo")
        self._memo[number] = self._stack[-1]

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _tuple(self, length: int) -> None:
        members = [self._pop() for _ in range(length)]
        self._stack.append(tuple(reversed(members)))

    def _tuple_to_mark(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self._stack.append(_Global(f"{module} {name}"))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise HeaderError("a class has no name")
        self._stack.append(_Global(f"{module} {name}"))

    def _set_items(self, members: list[Any]) -> None:
        target = self._stack[-1]
        if len(members) % 2:
            raise HeaderError("a key has no value")
        if isinstance(target, Map | Made):
            target.pairs.extend(zip(members[::2], members[1::2], strict=True))

    def _append(self, members: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(members)
        elif isinstance(target, Made):
            target.items.extend(members)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(_called(function, arguments))

    def _new(self, count: int) -> None:
        for _ in range(count):
            self._pop()
        self._stack.append(Made())

    def _build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, Made):
            target.state = state

    def _persistent(self) -> None:
        self._stack.append(_storage(self._pop()))

    def _map_to_mark(self) -> None:
        members = self._pop_to_mark()
        self._stack.append(Map())
        self._set_items(members)

    def _push(self, value: Any) -> None:
        self._stack.append(value)


def _storage(identity: Any) -> Any:
    """The storage that a persistent id names: ("storage", its class, its key, its place, its elements)."""
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        return _OPAQUE
    _, kind, key, _, elements = identity
    if not isinstance(kind, _Global) or type(key) is not str or type(elements) is not int or elements < 0:
        return _OPAQUE
    if kind.path != _UNTYPED and kind.path not in STORAGE_DTYPES:
        return _OPAQUE
    return _Storage(STORAGE_DTYPES.get(kind.path), key, elements)


def _refuse(_: Machine) -> None:
    raise HeaderError("an opcode that torch.save does not write")


_STOP = ord(".")
_SIGNED = struct.Struct("<i")
# https://docs.python.org/3/library/pickletools.html has them all; here are those of protocols 2 to 5, which PyTorch
# writes, but for the ways to name an instance of protocol 0.
_BY_OPCODE: dict[bytes, Callable[[Machine], object]] = {
    b"\x80": lambda m: m._take(1),  # PROTO
    b"\x95": lambda m: m._take(8),  # FRAME
    b"(": Machine._mark,
    b"0": lambda m: m._pop(),
    b"1": lambda m: m._pop_to_mark(),
    b"2": lambda m: m._push(m._stack[-1]),
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"K": Machine._push_byte,
    b"M": lambda m: m._push(m._number(2)),
    b"J": lambda m: m._push(_SIGNED.unpack(m._take(4))[0]),
    b"\x8a": lambda m: m._integer(1),
    b"\x8b": lambda m: m._integer(4),
    b"G": lambda m: m._opaque(8),  # BINFLOAT
    b"\x8c": lambda m: m._push_text(1),
    b"X": lambda m: m._push_text(4),
    b"\x8d": lambda m: m._push_text(8),
    b"C": lambda m: m._opaque(m._number(1)),
    b"B": lambda m: m._opaque(m._number(4)),
    b"\x8e": lambda m: m._opaque(m._number(8)),
    b"\x96": lambda m: m._opaque(m._number(8)),
    b"U": lambda m: m._opaque(m._number(1)),
    b"T": lambda m: m._opaque(m._number(4)),
    b"q": Machine._put_byte,
    b"r": lambda m: m._put(m._number(4)),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"h": Machine._get_byte,
    b"j": lambda m: m._get(m._number(4)),
    b")": lambda m: m._push(()),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"t": Machine._tuple_to_mark,
    b"]": lambda m: m._push([]),
    b"l": lambda m: m._push(m._pop_to_mark()),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._pop_to_mark()),
    b"}": lambda m: m._push(Map()),
    b"d": Machine._map_to_mark,
    b"s": Machine._set_item,
    b"u": lambda m: m._set_items(m._pop_to_mark()),
    b"\x8f": lambda m: m._push(Made()),  # EMPTY_SET
    b"\x90": lambda m: m._append(m._pop_to_mark()),
    b"\x91": lambda m: m._push(m._pop_to_mark()),
    b"c": Machine._global,
    b"\x93": Machine._stack_global,
    b"R": Machine._reduce,
    b"\x81": lambda m: m._new(2),
    b"\x92": lambda m: m._new(3),
    b"b": Machine._build,
    b"Q": Machine._persistent,
}
_STEPS = [_BY_OPCODE.get(bytes([code]), _refuse) for code in range(256)]
