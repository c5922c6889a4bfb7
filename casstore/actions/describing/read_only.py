"""What is recorded with a version, for callers: dicts and lists that say that they cannot be changed.

They are dicts and lists, so that they compare, print and serialize as these; a copy is a plain one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from casstore.errors import ReadOnly


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    raise ReadOnly(
        f"{self._what} cannot be changed: a saved version stays as it was saved; copy them with dict(...) and save "
        "another version, or say it when a version is saved"
    )


class _WrittenAsBase(type):
    """Has PyYAML write what is of a class as it writes what is of its base: its representers are found by the first of
    the `__mro__`, and to add one, PyYAML would have to be imported with every start."""

    @property
    def __mro__(cls) -> tuple[type, ...]:
        return tuple(cls.mro()[1:])


class ReadOnlyDict(dict[str, Any], metaclass=_WrittenAsBase):
    """`what` it holds is named in the error when a program changes it: ReadOnly, a TypeError.

    It is made as a dict is, as `dataclasses.asdict` does of what it finds in a dataclass.
    """

    def __init__(self, values: Any = (), what: str = "what is recorded") -> None:
        super().__init__({key: read_only(value, what) for key, value in dict(values).items()})
        self._what = what

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def copy(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class ReadOnlyList(list[Any], metaclass=_WrittenAsBase):
    """A list in a `ReadOnlyDict`."""

    def __init__(self, values: Iterable[Any] = (), what: str = "what is recorded") -> None:
        super().__init__(read_only(value, what) for value in values)
        self._what = what

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = remove = pop = clear = sort = reverse = _refuse

    def copy(self) -> list[Any]:
        """A plain list."""
        return list(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def read_only(value: Any, what: str) -> Any:
    """A value of JSON's types that cannot be changed, with all that is in it."""
    if isinstance(value, dict):
        return ReadOnlyDict(value, what)
    return ReadOnlyList(value, what) if isinstance(value, list) else value
