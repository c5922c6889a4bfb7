"""BentoML's model store over a casstore store."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

from bentoml._internal.models import ModelStore
from bentoml._internal.tag import Tag
from bentoml.exceptions import BentoMLException

import casstore
from casstore import Store, models
from casstore.integrations.bentoml.errors import as_bentoml
from casstore.integrations.bentoml.stored import StoredModel

_log = logging.getLogger(__name__)


class CasstoreModelStore(ModelStore):  # type: ignore[misc]  # its types are not looked at
    """Lists and gets versions, those that have no directory too, and saves each of them as a whole."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.home / "models")
        self.store = store

    def list(self, tag: Any = None) -> list[Any]:
        """All versions, those of a name, or the one with that very tag. Raises NotFound for an unknown name."""
        with as_bentoml():
            wanted = _text(tag) if tag else None
            return [StoredModel(model) for model in models.list(wanted, _model_store=self.store)]

    def get(self, tag: Any) -> StoredModel:
        """The version of that tag, a name alone, `name:latest`, a unique prefix or an alias. Raises NotFound."""
        with as_bentoml():
            return StoredModel(models.get(_text(tag), _model_store=self.store))

    def delete(self, tag: Any) -> None:
        """Delete that version, or all of a name alone. Raises NotFound."""
        with as_bentoml():
            models.delete(_text(tag), _model_store=self.store)

    @contextlib.contextmanager
    def register(self, tag: Any) -> Iterator[str]:
        """A directory to write files and a `model.yaml` into; saved as that version when the block ends."""
        self._check_is_free(tag)
        with tempfile.TemporaryDirectory(prefix="casstore-model-") as directory:
            yield directory
            self.take(directory, tag, trust=False)

    def take(self, directory: str, tag: Any, *, trust: bool, is_imported: bool = False) -> StoredModel:
        """Save what BentoML has written into a directory, keeping what its `model.yaml` says.

        With `is_imported` it must be signed where the store asks for that.
        """
        self._check_is_free(tag)  # before anything is read
        with as_bentoml():
            if is_imported:
                [imported] = self.store.import_archive(directory, format="folder", as_tag=str(tag), trust=trust)
            else:
                imported = self.store._save_written(directory, str(tag), trust=trust)
        if not imported.is_new:
            raise self._taken(tag)
        for note in imported.notes:
            _log.warning("%s: %s", tag, note)
        return self.get(tag)

    def push(self, tag: Any) -> None:
        """Bring a version to the store's default remote. Raises NotFound, BentoMLException."""
        with as_bentoml():
            models.push(_text(tag), _model_store=self.store)

    def pull(self, tag: Any) -> StoredModel:
        """Fetch a version, or the newest of a name, from the store's default remote. Raises as `push`."""
        wanted = Tag.from_taglike(tag)
        with as_bentoml(), self.store.remote() as remote:
            (pulled,) = remote.pull(f"{wanted.name}:{wanted.version or 'latest'}")
        return self.get(str(pulled.model.tag))

    def _check_is_free(self, tag: Any) -> None:
        with as_bentoml():
            complete = casstore.Tag.parse(str(Tag.from_taglike(tag)))
        if self.list(str(complete)):
            raise self._taken(tag)

    def _taken(self, tag: Any) -> BentoMLException:
        return BentoMLException(f"Item '{tag}' already exists in the store {self._path}; saved versions never change")


def _text(tag: Any) -> str:
    """A tag, or an alias, for which BentoML has no word."""
    return tag if isinstance(tag, str) and "@" in tag else str(Tag.from_taglike(tag))
