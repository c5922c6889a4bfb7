"""What is said where the package that a module is for is not installed."""

from __future__ import annotations

import sys

import pytest

from casstore.integrations.needed import needed
from tests.kit import script

EXTRAS = {"transformers": "trainer", "lightning": "lightning", "fsspec": "fsspec", "torch": "torch", "mlflow": "mlflow"}


def test_the_extra_is_named() -> None:
    said = script(
        "import sys\n"
        "from importlib import import_module\n"
        "for package in sys.argv[1:]:\n"
        "    sys.modules[package] = None\n"
        "    try:\n"
        "        import_module(f'casstore.integrations.{package}')\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(error)\n",
        *EXTRAS,
    )
    assert said.stdout.splitlines() == [
        f"{package} is not installed: pip install 'casstore[{extra}]'" for package, extra in EXTRAS.items()
    ]


def test_what_a_package_lacks_itself_is_not_called_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ModuleNotFoundError, match="numpy"), needed("torch", "torch"):
        import numpy  # noqa: F401
