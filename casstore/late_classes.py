"""Data classes of which each is made when it is first used.

To make one, `dataclasses` compiles six functions, which takes longer than to read a version from the catalog, and a
command uses few of those that it imports.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False, order: bool = False) -> Callable[[type], type]:
        """As `dataclasses.dataclass`."""

        def late(plain: type) -> type:
            members = {name: value for name, value in vars(plain).items() if name not in _OF_EACH_CLASS}
            made = _slotted(plain, members) if slots else plain
            given = {"frozen": frozen, "slots": slots}
            building = [*_BUILDING, *(_BUILDING_FROZEN if frozen else ()), *(_SENDING if frozen and slots else ())]
            comparing = [*_COMPARING, *(_HASHING if frozen else ()), *(_ORDERING if order else ())]
            for names, only in (
                (building, {**given, "repr": False, "eq": False}),
                (comparing, {**given, "init": False, "order": order}),
            ):
                names = [name for name in names if name not in members]
                part = _Part(plain, members, made, names, only)
                for name in names:
                    setattr(made, name, _Unmade(part, name))
            if not frozen and "__hash__" not in members:
                made.__hash__ = None
            return made

        return late


_OF_EACH_CLASS = {"__dict__", "__weakref__"}
# What is made together: the first for every instance, the second for the few that are shown or compared.
_BUILDING = (
    "__init__",
    "__dataclass_fields__",
    "__match_args__",
    *(("__replace__",) if sys.version_info >= (3, 13) else ()),
)
_BUILDING_FROZEN = ("__setattr__", "__delattr__")
_SENDING = ("__getstate__", "__setstate__")
_COMPARING = ("__repr__", "__eq__", "__dataclass_params__")
_HASHING = ("__hash__",)
_ORDERING = ("__lt__", "__le__", "__gt__", "__ge__")


def _class_like(plain: type, members: dict[str, Any]) -> type:
    return type(plain)(plain.__name__, plain.__bases__, {**members, "__qualname__": plain.__qualname__})


def _slotted(plain: type, members: dict[str, Any]) -> type:
    inherited = {name for base in plain.__mro__[1:] for name in getattr(base, "__slots__", ())}
    slots = tuple(name for name in members.get("__annotations__", ()) if name not in inherited)
    kept = {name: value for name, value in members.items() if name not in slots}
    return _class_like(plain, {**kept, "__slots__": slots})


class _Part:
    """Members of a data class that are made together."""

    def __init__(
        self, plain: type, members: dict[str, Any], made: type, names: list[str], given: dict[str, bool]
    ) -> None:
        self._plain = plain
        self._members = members
        self._made = made
        self._names = names
        self._given = given

    def get(self, name: str) -> Any:
        # Of a copy, since it is changed, and two threads may be here at once.
        whole: type = dataclasses.dataclass(**self._given)(_class_like(self._plain, self._members))
        for each in self._names:
            setattr(self._made, each, vars(whole)[each])
        return vars(self._made)[name]


class _Unmade:
    """Stands for a member of a data class until it is first used."""

    def __init__(self, part: _Part, name: str) -> None:
        self._part = part
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        member = self._part.get(self._name)
        return member.__get__(instance, owner) if hasattr(member, "__get__") else member
