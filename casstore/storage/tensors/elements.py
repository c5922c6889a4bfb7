"""Finds where tensors lie in a file, trusting nothing: the known formats, and which one a file is of."""

from __future__ import annotations

import json

from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.storage.tensors.gguf import find_gguf
from casstore.storage.tensors.safetensors import find_safetensors, safetensors_of
from casstore.storage.tensors.segments import BYTES, Element, ReadAt, Segment, element_of
from casstore.storage.tensors.zip_rows import find_zips
from casstore.storage.tensors.zips import npz_arrays

__all__ = ["BYTES", "Element", "ReadAt", "Segment", "element_of", "find_segments"]

_MAGIC_BYTES = 9
# The least that a further tensor takes: '"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'.
_LEAST_ENTRY_BYTES = 51
# Of an archive's directory: what stands in it of each entry and at its end (APPNOTE.TXT 4.3.12, 4.3.16).
_ENTRY_BYTES, _END_BYTES = 46, 22


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


def may_have_empty(recipe: Recipe) -> bool:
    """Whether a file may have tensors of no bytes, of which its recipe tells nothing: what stands there beside the
    tensors is longer than what must be said of those. Of safetensors and npz; other formats are said to have none.
    """
    kind, segments = recipe.plan.partition("/")[0], recipe.segments
    named = [segment for segment in segments if segment.name is not None]
    if kind == "safetensors":
        # Beyond what is said, a header as PyTorch has it is `"__metadata__":{"format":"pt"},` longer, and filled up.
        said, offset = len("{}") - len(","), 0
        for each in named:
            said += len(_entry(each, offset))
            offset += each.length
        return segments[0].length - 8 - said >= _LEAST_ENTRY_BYTES
    if kind == "npz":
        directory = segments[-1].length if segments[-1].name is None else 0
        said = sum(_ENTRY_BYTES + len((each.name or "").encode()) + len(".npy") for each in named)
        return directory - said - _END_BYTES >= _ENTRY_BYTES + len(".npy")
    return False


def _entry(segment: RecipeSegment, offset: int) -> bytes:
    """What a header says of a tensor at the least."""
    name, shape = json.dumps(segment.name, ensure_ascii=False), ",".join(map(str, segment.shape or ()))
    place = f"{offset},{offset + segment.length}"
    return f'{name}:{{"dtype":"{segment.dtype}","shape":[{shape}],"data_offsets":[{place}]}},'.encode()


def find_empty(read: ReadAt, size: int) -> list[Segment]:
    """The tensors of no bytes in a safetensors or npz file; none where it cannot be parsed. Raises what `read` does."""
    try:
        all_of_them = npz_arrays(read, size) if read(0, 2) == b"PK" else safetensors_of(read, size)
    except (ValueError, RecursionError):
        return []
    return [each for each in all_of_them if not each.length]
