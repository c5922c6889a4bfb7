"""BentoML itself, storing and loading its models through casstore: `install()`, before BentoML is used.

The command line: `python -m casstore.integrations.bentoml ...` in place of `bentoml ...`.
"""

from __future__ import annotations

import importlib.metadata
from contextlib import ExitStack
from pathlib import Path

from casstore import CasstoreError, Store

__all__ = ["BentoMLUnavailable", "install", "uninstall"]

_installed: tuple[Path, ExitStack] | None = None


class BentoMLUnavailable(CasstoreError, ImportError):
    """BentoML is not installed, or is not the version whose insides this knows."""


def install(home: str | None = None) -> None:
    """From now on, `bentoml` in this process keeps its models in the casstore store at `home`.

    The store is, by default, the one at `$CASSTORE_HOME`. Also sets `BENTOML_HOME` to it, for processes that are
    started from here and for what else BentoML keeps (bentos, environments). Repeating it changes nothing. While a
    bento is loaded that carries its models with it, those are left alone.
    Raises BentoMLUnavailable, and what opening a store raises.
    """
    global _installed
    _check_version()
    from casstore.integrations.bentoml import patches  # imports BentoML

    if patches.is_bento_with_models():
        return
    store = Store(home)
    if _installed is not None:
        if _installed[0] == store.home:
            store.close()
            return
        uninstall()
    _installed = (store.home, patches.apply(store))


def uninstall() -> None:
    """Undo `install`: BentoML is as it was before. Models that were handed out can no longer be opened."""
    global _installed
    if _installed is not None:
        _installed[1].close()
    _installed = None


def _check_version() -> None:
    try:
        version = importlib.metadata.version("bentoml")
    except importlib.metadata.PackageNotFoundError as error:
        raise BentoMLUnavailable("BentoML is not installed; pip install 'casstore[bentoml]'") from error
    if version.split(".")[:2] != ["1", "4"]:
        raise BentoMLUnavailable(
            f"casstore works inside of BentoML 1.4, and {version} is installed; pip install 'casstore[bentoml]'"
        )
