"""Labels and metadata of a draft, checked when something is put into them or taken out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Checked(dict[str, Any]):
    """A dict whose every new value goes through `check`, which gives what is kept, or raises. `check_open` comes before
    every change, and raises where none may be made any more.

    A copy of it is a plain dict. What is put into a list or dict in it later is looked at when the draft is saved.
    """

    def __init__(
        self, check: Callable[[Any, Any], Any], check_open: Callable[[], None], values: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._check = check
        self._check_open = check_open
        self.update(values)

    def __setitem__(self, key: str, value: Any) -> None:
        self._check_open()
        super().__setitem__(key, self._check(key, value))

    def __delitem__(self, key: str) -> None:
        self._check_open()
        super().__delitem__(key)

    def pop(self, key: str, *default: Any) -> Any:
        self._check_open()
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        self._check_open()
        return super().popitem()

    def clear(self) -> None:
        self._check_open()
        super().clear()

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **values: Any) -> None:
        """All of them, or none where one is at fault."""
        self._check_open()
        super().update({key: self._check(key, value) for key, value in dict(*others, **values).items()})

    def __ior__(self, other: Any) -> Checked:  # type: ignore[override,misc]  # as dict has it, but for overloads
        self.update(other)
        return self

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)
