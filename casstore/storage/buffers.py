"""Buffers of a caller's that are to be filled, such as an array or a bytearray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def checked_target(buffer: WriteableBuffer, size: int, name: str) -> memoryview:
    """A view of a buffer that is to take all of `name`.

    Raises TypeError if it cannot be written to, ValueError if it is not of that size, or not in one piece.
    """
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise TypeError(
            f"{name} can be read into a bytearray, a memoryview, a numpy array or the like, not into "
            f"{type(buffer).__name__}"
        ) from error
    if view.readonly:
        raise TypeError(f"{name} cannot be read into a {type(buffer).__name__} that is read-only")
    if view.nbytes != size:
        raise ValueError(f"{name} has {size:,} bytes, and the buffer {view.nbytes:,}; they have to be as many")
    if not view.c_contiguous:
        raise ValueError(f"{name} cannot be read into a buffer that is not in one piece, such as a transposed array")
    return view
