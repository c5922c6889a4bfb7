"""What is told of a tensor."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.digest import Digest


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a file.

    Attributes
    ----------
    file
        The path of its file.
    name
        Its name in that file. For PyTorch's files the name of the parameter, such as "model.0.weight", or
        "data/KEY" where the pickle tells none. Of a tensor that `torch.distributed.checkpoint` has written in parts,
        each is one: "layer.weight[0:512, 0:1024]".
    dtype
        In safetensors' words, such as "BF16"; of GGUF's quantized types ggml's, such as "Q4_K"; None where it is not
        known.
    shape
        Its dimensions, the outermost first; None where it is not known.
    size
        Bytes.
    digest
        Equal digests are equal bytes, whatever the file and the name. Of a tensor of up to 1 MiB it is BLAKE3 of its
        bytes; of a larger one, BLAKE3 of the digests of its chunks, one after another. Of a part of a PyTorch storage,
        and of one that is stored in another order, as a transposed one is, its place in there counts too.
    """

    file: str
    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    size: int
    digest: Digest
