"""Which storages a PyTorch pickle names, read from its opcodes. Nothing is unpickled, ever.

`torch.save` writes every storage as a persistent id, the tuple ("storage", <a storage class>, <key>,
<location>, <number of elements>) (torch/serialization.py, `persistent_id`). Only what such tuples are made of
is followed: texts, integers, names of classes, and the memo.
"""

from __future__ import annotations

import io
import pickletools
from collections import deque
from typing import NamedTuple

from casstore.storage.tensors.segments import HeaderError

# A tensor of a state dict takes about 40; one opcode takes about a microsecond.
MAX_OPCODES = 5_000_000
# What is kept for later takes up to 300 bytes each. A tensor adds about ten, so this is for 75,000 in one file.
MAX_MEMO = 750_000
# Names and decimal numbers stand in lines; int() takes quadratic time over a long one.
MAX_LINE_BYTES = 1024

# https://docs.pytorch.org/docs/stable/storage.html, "Legacy Typed Storage". Types that came later (F8_E4M3,
# U16, ...) are written as torch.storage.UntypedStorage, which does not tell.
STORAGE_DTYPES = {
    "torch DoubleStorage": "F64",
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
    "torch ComplexFloatStorage": "C64",
    "torch ComplexDoubleStorage": "C128",
}
_TEXTS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
# Stands on the machine's stack where a tuple's members begin.
_MARK = object()


class _Class(NamedTuple):
    path: str
    """The argument of pickle's GLOBAL: module and name, separated by a blank."""


class _Storage(NamedTuple):
    dtype: str | None
    key: str
    elements: int


class _Lines(io.BytesIO):
    def readline(self, _size: int | None = -1, /) -> bytes:
        # A longer line comes back without its end, which pickletools refuses.
        return super().readline(MAX_LINE_BYTES)


def find_storages(pickle: bytes) -> dict[str, tuple[str | None, int]]:
    """Key of each storage to (dtype or None, number of elements); empty for a pickle that breaks any rule.

    A key that stands with two types has dtype None.
    """
    found: dict[str, tuple[str | None, int]] = {}
    try:
        for storage in _walk(pickle):
            described = storage.dtype, storage.elements
            found[storage.key] = described if found.get(storage.key, described) == described else (None, 0)
    except (ValueError, Warning):  # pickletools warns of escapes that Python does not have, which some turn into errors
        return {}
    return found


def _walk(pickle: bytes) -> list[_Storage]:
    storages = []
    # The top of the machine's stack as far as it is known: a mark and the five members of a persistent id.
    top: deque[object] = deque(maxlen=6)
    memo: dict[object, object] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(_Lines(pickle))):
        if number >= MAX_OPCODES:
            raise HeaderError("the pickle has too many opcodes")
        name = opcode.name
        if name in _PUTS:
            if len(memo) >= MAX_MEMO:
                raise HeaderError("the pickle has too long a memo")
            memo[len(memo) if name == "MEMOIZE" else argument] = top[-1] if top else None
        elif name in _GETS:
            top.append(memo.get(argument))
        elif name in _TEXTS or name in _INTEGERS:
            top.append(argument)
        elif name == "MARK":
            top.append(_MARK)
        elif name == "GLOBAL":
            top.append(_Class(str(argument)))
        elif name == "STACK_GLOBAL" and len(top) >= 2:
            attribute, module = top.pop(), top.pop()
            top.append(_Class(f"{module} {attribute}"))
        elif name == "TUPLE":
            storage = _as_storage(list(top))
            top.clear()
            top.append(storage)
        elif name == "BINPERSID":
            if top and isinstance(top[-1], _Storage):
                storages.append(top[-1])
            top.clear()
        elif name not in ("PROTO", "FRAME"):
            top.clear()
    return storages


def _as_storage(members: list[object]) -> _Storage | None:
    if len(members) != 6 or members[0] is not _MARK or members[1] != "storage":
        return None
    storage_class, key, elements = members[2], members[3], members[5]
    # type(), as the opcode INT also makes bools.
    if not (isinstance(storage_class, _Class) and isinstance(key, str) and type(elements) is int):
        return None
    return _Storage(STORAGE_DTYPES.get(storage_class.path), key, elements)
