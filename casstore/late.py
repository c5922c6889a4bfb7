"""Modules that are imported when something of them is first used, so that a command starts with what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from casstore import release


class LateModule(ModuleType):
    """Stands for the module of its name until that is used, and hands everything on to it."""

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return vars(_imported(self.__name__))

    def __getattr__(self, name: str) -> Any:
        return getattr(_imported(self.__name__), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_imported(self.__name__), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_imported(self.__name__), name)

    def __dir__(self) -> list[str]:
        return dir(_imported(self.__name__))


def late_modules(package: str, *names: str) -> Callable[[str], ModuleType]:
    """The `__getattr__` of a package of which `from package import module` imports these modules when they are used.

    What needs one at once has it at once: `from package.module import name`.
    """

    def late(name: str) -> ModuleType:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return LateModule(f"{package}.{name}")

    return late


_loaded: dict[str, ModuleType] = {}  # a tenth of the time of asking Python's own machinery, which takes locks


def _imported(name: str) -> ModuleType:
    found = _loaded.get(name)
    if found is None:
        if name not in sys.modules and name.startswith("casstore."):
            _check_release()
        found = _loaded[name] = import_module(name)
    return found


def _check_release() -> None:
    """Raise CasstoreError where another release has been installed over this one: half of each must not touch a store.

    A process that trains for days may outlive a `pip install --upgrade`.
    """
    try:
        with open(release.__file__, encoding="utf-8") as file:
            standing = file.read().split('"')[-2]
    except (OSError, IndexError):  # in a zip file, or in the midst of being replaced
        return
    if standing != release.__version__:
        from casstore.errors import CasstoreError

        raise CasstoreError(
            f"casstore {standing} has been installed while this process runs casstore {release.__version__}, and what "
            "it needs now would come from the other: start the process again"
        )
