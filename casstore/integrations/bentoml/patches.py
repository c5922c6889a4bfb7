"""What `install` changes in BentoML, and how it is undone."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakSet

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import Model, ModelStore
from simple_di import sentinel

from casstore import Store
from casstore.integrations.bentoml.store import CasstoreModelStore

_HOME_VARIABLE = "BENTOML_HOME"
# What BentoML works out from its home, once in a process.
_OF_THE_HOME = (
    "bentoml_home", "model_store_dir", "bento_store_dir", "tmp_bento_store_dir", "env_store_dir", "result_store_file",
    "cloud_config", "model_store", "bento_store", "tmp_bento_store",
)  # fmt: skip
_save_elsewhere = Model.save
_import_elsewhere = Model.import_from
_imported: WeakSet[Any] = WeakSet()  # models that came from an archive, and have not been made here


def apply(store: Store) -> ExitStack:
    """Change everything; closing what is returned takes it all back, and closes the store."""
    with ExitStack() as stack:
        stack.enter_context(store)
        _set_home(stack, str(store.home))
        BentoMLContainer.model_store.set(CasstoreModelStore(store))
        stack.callback(setattr, Model, "save", _save_elsewhere)
        Model.save = _save
        stack.callback(delattr, Model, "import_from")  # its class is that of bentos, too
        Model.import_from = staticmethod(_import)
        for name in ("push", "pull"):
            call = getattr(bentoml.models, name)
            stack.callback(setattr, bentoml.models, name, call)
            setattr(bentoml.models, name, _by_remote(name, call))
        return stack.pop_all()


def _by_remote(name: str, elsewhere: Callable[..., Any]) -> Callable[..., Any]:
    """That call, through the store's default remote; where it has none, BentoML's own, which goes to BentoCloud."""

    @functools.wraps(elsewhere)
    def call(tag: Any, **how: Any) -> Any:
        store = how.get("_model_store") or BentoMLContainer.model_store.get()
        if not isinstance(store, CasstoreModelStore) or store.store.default_remote() is None:
            return elsewhere(tag, **how)
        return getattr(store, name)(tag)

    return call


def is_bento_with_models() -> bool:
    """Whether a service is being loaded from a bento that carries its models, as one in a container does."""
    return type(BentoMLContainer.model_store._override) is ModelStore


def _set_home(stack: ExitStack, home: str) -> None:
    """Make it as in a process that starts with `BENTOML_HOME` set to it."""
    stack.callback(_set_variable, os.environ.get(_HOME_VARIABLE))
    _set_variable(home)
    for name in _OF_THE_HOME:
        provider = getattr(BentoMLContainer, name)
        before = provider.__getstate__()
        stack.callback(provider.__setstate__, before)
        provider.__setstate__({**before, "_override": sentinel, "_cache": sentinel})


def _set_variable(value: str | None) -> None:
    if value is None:
        os.environ.pop(_HOME_VARIABLE, None)
    else:
        os.environ[_HOME_VARIABLE] = value


def _save(self: Any, model_store: Any = None) -> Any:
    """`Model.save`, which in a casstore store saves all of it or nothing."""
    store = BentoMLContainer.model_store.get() if model_store is None else model_store
    if not isinstance(store, CasstoreModelStore):
        return _save_elsewhere(self, store)
    self.validate()
    # What this process holds as objects it has made or unpickled already, so there is nothing left to be warned of.
    trust = self._custom_objects is not None
    return store.take(self.path, self.tag, trust=trust, is_imported=self in _imported)


@functools.wraps(_import_elsewhere)
def _import(*arguments: Any, **how: Any) -> Any:
    """`Model.import_from`, of which `_save` knows."""
    model = _import_elsewhere(*arguments, **how)
    _imported.add(model)
    return model
