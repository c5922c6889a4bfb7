"""Tensors in zip archives: PyTorch's checkpoints and numpy's .npz.

A `torch.save` file is an archive of stored entries: `<root>/data.pkl`, a pickle that names storages by key,
and the storages' bytes under `<root>/data/<key>` (torch/serialization.py, `_save`).
An .npz is an archive of .npy files (numpy/lib/format.py, "Format Version 1.0").
"""

from __future__ import annotations

import re
import struct
import zipfile
from math import prod

from casstore.storage.tensors.pickled import find_storages
from casstore.storage.tensors.segments import (
    ELEMENT_BITS,
    MAX_TENSORS,
    HeaderError,
    ReadAt,
    Segment,
    check_shape,
    cover,
    read_exactly,
)
from casstore.storage.window import ReadError, Window

# An entry takes about 80 bytes here, and 700 once zipfile has parsed it: 100,000 tensors, and under 150 MB.
MAX_DIRECTORY_BYTES = 8 << 20
# A tensor takes about 100 bytes of pickle, so this is more than the directory holds.
MAX_PICKLE_BYTES = 16 << 20
# numpy's own limit, _MAX_HEADER_SIZE. A plain array's header takes 118.
MAX_NPY_HEADER_BYTES = 10_000

_LOCAL_HEADER = struct.Struct("<4s4xH16xHH")
_FLAG_ENCRYPTED = 0x1
_FLAG_UTF8 = 0x800
# Two bytes of length in version 1.0, four in 2.0 and 3.0.
_NPY_LENGTH_BYTES = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4, b"\x93NUMPY\x03\x00": 4}
# What numpy writes for a plain array, the keys sorted. A pattern, as a general parser of literals would bring
# limits of its own, different in each version of Python; other texts are of structures, objects or strings.
_NPY_HEADER = re.compile(
    r"\{'descr': ?'([<>|][biufc]([0-9]{1,2}))', ?'fortran_order': ?(?:True|False), "
    r"?'shape': ?\(([0-9, ]*)\),? ?\}\s*"
)
_NPY_DTYPES = {
    "|b1": "BOOL",
    "|u1": "U8",
    "|i1": "I8",
    "<u2": "U16",
    "<i2": "I16",
    "<f2": "F16",
    "<u4": "U32",
    "<i4": "I32",
    "<f4": "F32",
    "<u8": "U64",
    "<i8": "I64",
    "<f8": "F64",
    "<c8": "C64",
    "<c16": "C128",
}


def find_zip(read: ReadAt, size: int) -> tuple[str, list[Segment]]:
    """("torch" or "npz", its segments). Raises HeaderError or another ValueError.

    A storage's name is "data/<key>", its shape the number of its elements; an array's is that of its entry
    without ".npy". Compressed entries, and arrays of objects or structures, are unnamed.
    """
    entries = _list_entries(read, size)
    names = [entry.orig_filename for entry in entries]
    if len(set(names)) != len(names):
        raise HeaderError("two entries have one name")
    roots = [root for name in names if (root := _root(name))]
    if len(roots) == 1:
        return "torch", cover(_torch_storages(read, size, entries, roots[0]), size)
    if names and all(name.endswith(".npy") for name in names):
        return "npz", cover(_npz_arrays(read, size, entries), size)
    raise HeaderError("an archive of neither PyTorch nor numpy")


def npz_arrays(read: ReadAt, size: int) -> list[Segment]:
    """The arrays of an .npz, also those of no bytes. Raises HeaderError or another ValueError."""
    return [each for each in _npz_arrays(read, size, _list_entries(read, size)) if each.name is not None]


def has_compressed(read: ReadAt, size: int) -> bool:
    """Whether a zip archive has entries that cannot be read as they stand. Raises what `read` raises."""
    try:
        return not all(map(_is_stored, _list_entries(read, size)))
    except ValueError:
        return False


def is_fortran(header: bytes) -> bool:
    """Whether an array runs fastest in its first dimension, by the bytes that stand before its own in an .npz: its
    header is what ends with them."""
    start = header.rfind(b"\x93NUMPY")
    length_bytes = _NPY_LENGTH_BYTES.get(header[start : start + 8]) if start >= 0 else None
    if length_bytes is None:
        return False
    text = start + 8 + length_bytes
    if text + int.from_bytes(header[start + 8 : text], "little") != len(header):
        return False
    return re.search(rb"'fortran_order': ?True", header[text:]) is not None


def _npz_arrays(read: ReadAt, size: int, entries: list[zipfile.ZipInfo]) -> list[Segment]:
    return [part for entry in entries for part in _npz_array(read, size, entry)]


class _BoundedFile(Window):
    """The file as zipfile reads it: to its end, and never much at a time.

    zipfile reads the central directory in one piece, of the size that the archive declares.
    """

    def __init__(self, read: ReadAt, size: int) -> None:
        super().__init__(size)
        self._read = read

    def read(self, length: int = -1, /) -> bytes:
        length = self._available(length)
        if length > MAX_DIRECTORY_BYTES:
            raise HeaderError("the central directory is too large")
        try:
            data = self._read(self._position, length)
        except OSError as error:
            raise ReadError(error) from error
        self._position += len(data)
        return data


def _list_entries(read: ReadAt, size: int) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(_BoundedFile(read, size)) as archive:
            entries = archive.infolist()
    except ReadError as failed:
        raise failed.error from None
    except Exception as error:
        # Which exceptions zipfile lets out of a hostile directory differs between versions of Python.
        raise HeaderError("not a readable zip archive") from error
    if len(entries) > MAX_TENSORS:
        raise HeaderError("too many entries")
    return entries


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    return entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & _FLAG_ENCRYPTED


def _data_offset(read: ReadAt, size: int, entry: zipfile.ZipInfo) -> int:
    """Where the entry's bytes begin; they may still reach beyond the file, which `cover` refuses.

    Raises HeaderError when the local header contradicts the central directory.
    """
    head = read_exactly(read, size, entry.header_offset, _LOCAL_HEADER.size)
    signature, method, name_length, extra_length = _LOCAL_HEADER.unpack(head)
    raw_name = read_exactly(read, size, entry.header_offset + len(head), name_length)
    name = raw_name.decode("utf-8" if entry.flag_bits & _FLAG_UTF8 else "cp437")
    if (signature, name, method) != (b"PK\x03\x04", entry.orig_filename, entry.compress_type):
        raise HeaderError("a local header contradicts the central directory")
    if _is_stored(entry) and entry.compress_size != entry.file_size:
        raise HeaderError("a stored entry has two sizes")
    start: int = entry.header_offset + len(head) + name_length + extra_length
    return start


def _torch_storages(read: ReadAt, size: int, entries: list[zipfile.ZipInfo], root: str) -> list[Segment]:
    storages = find_storages(_torch_pickle(read, size, {entry.orig_filename: entry for entry in entries}, root))
    prefix = root + "data/"
    found = []
    for entry in entries:
        key = entry.orig_filename[len(prefix) :]
        if not entry.orig_filename.startswith(prefix) or not key or not _is_stored(entry):
            continue
        start, length = _data_offset(read, size, entry), entry.file_size
        dtype, elements = storages.get(key, (None, 0))
        if dtype is not None and elements * ELEMENT_BITS[dtype] == length * 8:
            found.append(Segment(start, length, f"data/{key}", dtype, (elements,)))
        else:
            found.append(Segment(start, length, f"data/{key}"))
    return found


def read_torch_pickle(read: ReadAt, size: int) -> bytes:
    """The pickle of a `torch.save` file of `size` bytes; empty where there is none to be read, or where the file's
    numbers are not little-endian. Raises only what `read` raises."""
    try:
        entries = _list_entries(read, size)
        named = {entry.orig_filename: entry for entry in entries}
        roots = [root for name in named if (root := _root(name))]
        return _torch_pickle(read, size, named, roots[0]) if len(roots) == 1 else b""
    except ValueError:
        return b""


def _root(name: str) -> str:
    """What the names of all entries begin with, if this is the name of a pickle of PyTorch's."""
    return name[: -len("data.pkl")] if re.fullmatch(r"[^/]+/data\.pkl", name) else ""


def _torch_pickle(read: ReadAt, size: int, entries: dict[str, zipfile.ZipInfo], root: str) -> bytes:
    """The pickle; empty when its storages' types are not to be learnt from it."""

    def content(name: str, limit: int) -> bytes:
        entry = entries[root + name]
        if not _is_stored(entry) or entry.file_size > limit:
            return b""
        return read_exactly(read, size, _data_offset(read, size, entry), entry.file_size)

    # Written since PyTorch 2.1; before it, all files are little-endian.
    if root + "byteorder" in entries and content("byteorder", 6) != b"little":
        return b""
    return content("data.pkl", MAX_PICKLE_BYTES)


def _npz_array(read: ReadAt, size: int, entry: zipfile.ZipInfo) -> list[Segment]:
    """The parts of one entry; a compressed one, or no plain array, is a part of its own without a name."""
    start, length = _data_offset(read, size, entry), entry.compress_size
    whole = [Segment(start, length)]
    if not _is_stored(entry) or length < 12:
        return whole
    head = read_exactly(read, size, start, 12)
    length_bytes = _NPY_LENGTH_BYTES.get(head[:8])
    if length_bytes is None:
        return whole
    data_offset = 8 + length_bytes + int.from_bytes(head[8 : 8 + length_bytes], "little")
    if data_offset > min(MAX_NPY_HEADER_BYTES, length):
        return whole
    text = read_exactly(read, size, start + 8 + length_bytes, data_offset - 8 - length_bytes)
    header = _NPY_HEADER.fullmatch(text.decode("latin-1"))
    if header is None:
        return whole
    descr, item_bytes, dimensions = header.groups()
    shape = check_shape(int(dimension) for dimension in dimensions.split(",") if dimension.strip())
    data_length = length - data_offset
    if prod(shape) * int(item_bytes) != data_length:
        raise HeaderError("an array's data do not match its type and shape")
    name = entry.orig_filename[: -len(".npy")]
    return [Segment(start + data_offset, data_length, name, _NPY_DTYPES.get(descr), shape)]
