"""Files as `torch.save` writes them, made without PyTorch: a pickle of a state dict, and its storages."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

ORDERED_DICT = b"ccollections\nOrderedDict\n"
TYPES = {
    "F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "U8": "ByteStorage",
    "I64": "LongStorage", "I32": "IntStorage", "BOOL": "BoolStorage", "C64": "ComplexFloatStorage",
}  # fmt: skip
UNTYPED = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "U16": "uint16", "U64": "uint64"}
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I64": 8, "I32": 4, "BOOL": 1, "C64": 8, "U16": 2, "U64": 8}
WIDTHS |= {"F8_E4M3": 1, "F8_E5M2": 1}


class View(NamedTuple):
    """A tensor of a storage; offset and strides count elements."""

    storage: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    metadata: bytes = b""
    """Opcodes of what PyTorch says last of it, such as {"conj": True}."""


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, dtype: str, size: int) -> bytes:
    """A storage of `size` bytes, as its persistent id."""
    kind = b"ctorch\n" + TYPES[dtype].encode() + b"\n" if dtype in TYPES else b"ctorch.storage\nUntypedStorage\n"
    elements = size // WIDTHS[dtype] if dtype in TYPES else size
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(elements) + b"tQ"


def tensor(view: View, size: int) -> bytes:
    """The call that makes a tensor of a storage of `size` bytes."""
    is_typed = view.dtype in TYPES
    function = b"ctorch._utils\n_rebuild_tensor_v2\n" if is_typed else b"ctorch._utils\n_rebuild_tensor_v3\n"
    place = number(view.offset) + numbers(view.shape) + numbers(view.strides)
    dtype = b"" if is_typed else b"ctorch\n" + UNTYPED[view.dtype].encode() + b"\n"
    rest = b"\x89" + ORDERED_DICT + b")R" + dtype + view.metadata
    return function + b"(" + storage(view.storage, view.dtype, size) + place + rest + b"tR"


def mapping(parts: Mapping[str, bytes]) -> bytes:
    """A dict of what already is opcodes."""
    return b"}(" + b"".join(text(key) + part for key, part in parts.items()) + b"u"


def pickled(parts: Mapping[str, bytes]) -> bytes:
    return b"\x80\x02" + mapping(parts) + b"."


def archive(pickle: bytes, storages: Mapping[str, bytes], order: str = "little") -> bytes:
    """The zip file of a pickle and its storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in {
            "data.pkl": pickle, "byteorder": order.encode(), **{f"data/{key}": raw for key, raw in storages.items()},
            "version": b"3\n",
        }.items():  # fmt: skip
            made.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return file.getvalue()


def state_dict(views: Mapping[str, View], storages: Mapping[str, bytes]) -> bytes:
    """The file of a dict of tensors."""
    parts = {name: tensor(view, len(storages[view.storage])) for name, view in views.items()}
    return archive(pickled(parts), storages)


_METADATA = b"torch.distributed.checkpoint.metadata\n"


class Stored(NamedTuple):
    """An entry of `storage_data` of torch.distributed.checkpoint; `part`: opcodes of where it begins in the tensor."""

    name: str
    path: str
    offset: int
    length: int
    part: tuple[int, ...] | None = None
    transforms: bytes | None = None


def one_tensor(view: View, raw: bytes) -> bytes:
    """The file of a tensor alone, as torch.distributed.checkpoint writes one behind another."""
    return archive(b"\x80\x02" + tensor(view, len(raw)) + b".", {view.storage: raw})


def instance(path: bytes, parts: Mapping[str, bytes]) -> bytes:
    """An object that is made without a call, and its attributes."""
    return b"c" + path + b"\n)\x81" + mapping(parts) + b"b"


def distributed(entries: Iterable[Stored], tensors: bytes = b"}") -> bytes:
    """What torch.distributed.checkpoint writes as `.metadata`. `tensors`: opcodes of what it says of tensors."""
    pairs = b""
    for each in entries:
        part = b"N" if each.part is None else b"ctorch\nSize\n" + numbers(each.part) + b"\x85R"
        place = {"relative_path": text(each.path), "offset": number(each.offset), "length": number(each.length)}
        if each.transforms is not None:
            place["transform_descriptors"] = each.transforms
        pairs += instance(_METADATA + b"MetadataIndex", {"fqn": text(each.name), "offset": part, "index": b"N"})
        pairs += instance(b"torch.distributed.checkpoint.filesystem\n_StorageInfo", place)
    said = {"state_dict_metadata": tensors, "planner_data": b"N", "storage_data": b"}(" + pairs + b"u"}
    return b"\x80\x02" + instance(_METADATA + b"Metadata", said) + b"."


def checkpoint_of(files: Mapping[str, Iterable[tuple[str, tuple[int, ...] | None, bytes]]]) -> dict[str, bytes]:
    """The files of a distributed checkpoint: of each, the names, parts and archives that are in it."""
    entries, made = [], {}
    for path, inside in files.items():
        made[path] = b""
        for name, part, content in inside:
            entries.append(Stored(name, path, len(made[path]), len(content), part))
            made[path] += content
    return {".metadata": distributed(entries), **made}
