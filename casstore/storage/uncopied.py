"""Objects that own descriptors, locks or connections cannot be copied: a copy would close them under the original."""

from __future__ import annotations

from typing import NoReturn


class Uncopied:
    """Refuses copy, deepcopy and pickle before anything of a copy has been made, whose end could close a file."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Raises TypeError."""
        raise TypeError(
            f"this {type(self).__name__} cannot be copied or pickled: it owns open files; hand on the Store or the "
            "Model, which are opened again where they arrive"
        )
