"""Modules that are imported when something of them is first used, so that a command starts with what it needs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


class LateModule(ModuleType):
    """Stands for the module of its name until that is used, and hands everything on to it."""

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return vars(import_module(self.__name__))

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(import_module(self.__name__), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(import_module(self.__name__), name)

    def __dir__(self) -> list[str]:
        return dir(import_module(self.__name__))


def late_modules(package: str, *names: str) -> Callable[[str], ModuleType]:
    """The `__getattr__` of a package of which `from package import module` imports these modules when they are used.

    What needs one at once has it at once: `from package.module import name`.
    """

    def late(name: str) -> ModuleType:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return LateModule(f"{package}.{name}")

    return late
