"""A part of a file or buffer for zipfile to read, whose errors it does not take for a malformed archive."""

from __future__ import annotations


class ReadError(Exception):
    """Carries an OSError through zipfile, which would take it for a sign of a malformed archive."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class Window:
    """A position in `size` bytes, as a file has one. Subclasses read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._position = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        position = offset + (0, self._position, self.size)[whence]
        if position < 0:
            # What a real file does; zipfile expects it.
            raise OSError("a seek to before the beginning of the file")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def _available(self, length: int) -> int:
        """How many bytes a read of that length gives; -1 stands for all that are left."""
        left = max(self.size - self._position, 0)
        return left if length < 0 else min(length, left)
