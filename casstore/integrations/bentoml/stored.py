"""BentoML's model of a version in a casstore store."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from bentoml._internal.models.model import Model, ModelInfo
from bentoml._internal.tag import Tag

from casstore import models
from casstore.integrations.bentoml.errors import as_bentoml


class StoredModel(Model):  # type: ignore[misc]  # its types are not looked at
    """A bentoml.Model whose description is read when it is asked for, and whose directory is made when it is."""

    def __init__(self, seen: models.Model) -> None:
        self._seen = seen
        super().__init__(Tag(seen.tag.name, seen.tag.version), "", None, internal=True)

    @property
    def _path(self) -> Path:
        with as_bentoml():
            return Path(self._seen.path)

    @_path.setter
    def _path(self, path: Path) -> None:
        """Nothing: BentoML's own constructor sets it, and the store knows better."""

    @property
    def _info(self) -> Any:
        return self._read_info

    @_info.setter
    def _info(self, info: Any) -> None:
        """Nothing, as for the path."""

    @functools.cached_property
    def _read_info(self) -> Any:
        with as_bentoml(), self._seen.saved_version.open("model.yaml") as descriptor:
            return ModelInfo.from_yaml_file(descriptor)

    @property
    def custom_objects(self) -> dict[str, Any]:
        """The Python objects saved with it; of what was imported only where the import said that it is trusted."""
        return self.load_custom_objects()

    def load_custom_objects(self, *, trust: bool = False) -> dict[str, Any]:
        """The Python objects saved with it; with `trust` also those that were imported without."""
        with as_bentoml():
            return self._seen.load_custom_objects(trust=trust)

    @property
    def file_size(self) -> int:
        """Bytes of all its files. Makes no directory."""
        with as_bentoml():
            return self._seen.file_size

    def with_options(self, **options: Any) -> StoredModel:
        """This version, to be loaded with other options."""
        changed = StoredModel(self._seen)
        changed._read_info = self.info.with_options(**options)
        return changed

    def save(self, model_store: Any = None) -> Any:
        """Copy it to another store."""
        return Model.from_path(self.path).save(*([] if model_store is None else [model_store]))

    def export(self, path: str, output_format: str | None = None, **parts: Any) -> str:
        """Written straight from the store, without a directory, to what BentoML's import takes."""
        with as_bentoml():
            return self._seen.export(path, output_format, **parts)

    def __repr__(self) -> str:
        return repr(self._seen)
