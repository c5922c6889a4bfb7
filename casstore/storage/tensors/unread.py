"""Why a file that is named as one of weights cannot be read as tensors, so that nobody takes others for all."""

from __future__ import annotations

from typing import NamedTuple

from casstore.storage.tensors.elements import find_segments
from casstore.storage.tensors.segments import ReadAt
from casstore.storage.tensors.zips import has_compressed

_ENDS = {
    "safetensors": "safetensors", "gguf": "gguf", "pt": "torch", "pth": "torch", "bin": "torch", "ckpt": "torch",
    "distcp": "torch", "npz": "npz",
}  # fmt: skip
_LFS = b"version https://git-lfs.github.com/spec/"
_NAMES = {"safetensors": "safetensors", "gguf": "GGUF", "npz": "npz"}
# What transformers, peft and diffusers call weights; other files that end in `.bin` may be anything.
_WEIGHTS = ("pytorch_model", "adapter_model", "diffusion_pytorch_model")
# torch/serialization.py, MAGIC_NUMBER: what a file before the zip archives begins with, pickled by protocol 2.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# In a pickle by protocols 2 and above of tensors stand these names of functions of PyTorch's, whole.
_OF_TENSORS = (b"_rebuild_", b"_load_from_bytes")
# Pickles of PyTorch's come before the numbers, and a name of the first tensor's stands near its beginning.
_MAX_SEARCHED_BYTES = 16 << 20


class Why(NamedTuple):
    """Why tensors cannot be read, to follow a file's name: "is empty"; and what reads the file, if anything does."""

    said: str
    reader: str | None = None


def kind_by_name(path: str) -> str | None:
    """The format that the end of a name says: "safetensors", "gguf", "torch" or "npz"; None where it says none."""
    return _ENDS.get(path.rpartition("/")[2].rpartition(".")[2].lower()) if "." in path else None


def why_unread(read: ReadAt, size: int, path: str, kind: str) -> Why | None:
    """Why the tensors of a file of that format cannot be read.

    None where it can be parsed, or is none of that format, or is a pickle without tensors. Of the tensors of a
    `torch.save` archive one by one, nothing is said. Raises what `read` does.
    """
    if not size:
        return None if path.endswith(".distcp") else Why("is empty")
    found = find_segments(read, size)
    if found is not None:
        is_compressed = found[0] == "npz" and has_compressed(read, size)
        return Why("is compressed, as numpy.savez_compressed writes it", "numpy.load") if is_compressed else None
    if read(0, len(_LFS)) == _LFS:
        return Why("is a pointer of Git LFS, not the file that it stands for")
    return Why(f"is cut short, or is not {_NAMES[kind]}") if kind != "torch" else _why_not_pytorch(read, size, path)


def _why_not_pytorch(read: ReadAt, size: int, path: str) -> Why | None:
    head = read(0, len(_LEGACY))
    if head.startswith(b"PK"):
        return Why("is cut short, or is a zip archive that torch.save does not write")
    if head[:1] == b"\x80" and head[1:2] in (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"):
        searched = read(0, min(size, _MAX_SEARCHED_BYTES))
        if not any(name in searched for name in _OF_TENSORS):
            return None
        if head == _LEGACY:
            return Why("is in the legacy format of torch.save", "torch.load")
        return Why("is a plain pickle, not by torch.save", "pickle.load")
    is_weights = not path.endswith(".bin") or path.rpartition("/")[2].startswith(_WEIGHTS)
    return Why("is not what torch.save writes") if is_weights else None
