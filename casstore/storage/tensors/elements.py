"""Finds where tensors lie in a file, trusting nothing: the known formats, and which one a file is of."""

from __future__ import annotations

from casstore.storage.tensors.gguf import find_gguf
from casstore.storage.tensors.safetensors import find_safetensors
from casstore.storage.tensors.segments import BYTES, Element, ReadAt, Segment, element_of
from casstore.storage.tensors.zip_rows import find_zips

__all__ = ["BYTES", "Element", "ReadAt", "Segment", "element_of", "find_segments"]

_MAGIC_BYTES = 9


def may_have_segments(data: bytes) -> bool:
    """Whether a file that begins so may be one of these; quicker than looking for its segments."""
    return data[8:9] == b"{" or data.startswith((b"GGUF", b"PK\x03\x04"))


def find_segments(read: ReadAt, size: int) -> tuple[str, list[Segment]] | None:
    """("safetensors" | "gguf" | "torch" | "npz" | "zips", segments) of a file of `size` bytes.

    The segments are ordered, of one byte or more each, and cover the file without a hole; each tensor is one.
    None when the file is none of these, or its header is malformed in any way. A pure function of the file's
    bytes, bounded in time and memory; raises only what `read` raises.
    """
    magic = read(0, min(_MAGIC_BYTES, size))
    try:
        if magic.startswith(b"GGUF"):
            return "gguf", find_gguf(read, size)
        if magic.startswith(b"PK\x03\x04"):
            return find_zips(read, size)
        # Behind eight bytes of length; those of a header within its limit can be neither magic above.
        if magic.endswith(b"{") and len(magic) == _MAGIC_BYTES:
            return "safetensors", find_safetensors(read, size)
    # HeaderError, and what json and str.decode raise, are ValueErrors. A header that nests deeply enough for
    # RecursionError breaks its format's rules anyway, so the result does not depend on the caller's stack.
    except (ValueError, RecursionError):
        return None
    return None
