"""A model, in BentoML's terms: being written inside `create`, or saved."""

from __future__ import annotations

import importlib
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import casstore
from casstore import CasstoreError, Draft, Store, Tag
from casstore.models import urls
from casstore.models.info import ModelInfo

# Their loaders take nothing but a model of BentoML's own class.
_BENTOML_PACKAGES = {"bentoml", "_bentoml_impl"}


class Model:
    """What `create` yields, and `get`, `list` and `import_model` return. Two with one tag are equal."""

    def __init__(self, store: Store, kept: Draft | casstore.Model, info: ModelInfo) -> None:
        self._store = store
        self._kept = kept
        self._info = info
        self._custom_objects: dict[str, Any] | None = None
        self._options: dict[str, Any] = {}
        self._loaded: Any = None

    @classmethod
    def being_written(cls, store: Store, draft: Draft, info: ModelInfo) -> Model:
        """Make a model whose files are still to come.

        Parameters
        ----------
        store
            The store that it will be in.
        draft
            The draft that its files are written to.
        info
            What it says of itself.

        Returns
        -------
        Model
            The model.
        """
        model = cls(store, draft, info)
        model._custom_objects = draft.custom_objects
        return model

    @classmethod
    def saved(cls, store: Store, version: casstore.Model) -> Model:
        """Make a model of a version of the store.

        Parameters
        ----------
        store
            The store.
        version
            The version in it.

        Returns
        -------
        Model
            The model.
        """
        return cls(store, version, _info(version))

    def become(self, version: casstore.Model) -> None:
        """Note that what was being written is saved.

        Parameters
        ----------
        version
            What it was saved as.
        """
        self._kept = version
        self._info = _info(version)

    @property
    def tag(self) -> Tag:
        """Name and version."""
        return self._kept.tag

    @property
    def saved_version(self) -> casstore.Model:
        """What `casstore.Store.get` gives for it.

        Raises
        ------
        CasstoreError
            It is still being written.
        """
        if isinstance(self._kept, Draft):
            raise CasstoreError(f"{self.tag} is not saved yet; it is when the with block has ended")
        return self._kept

    @property
    def info(self) -> ModelInfo:
        """Labels, metadata and what else was recorded; those of a model being written may still be changed."""
        return self._info

    @property
    def path(self) -> str:
        """Its directory: to write into, then read-only. It is made again if it was packed away.

        Raises
        ------
        IntegrityError
            The stored bytes are damaged.
        TagNotFound
            The version has been deleted.
        CasstoreError
            It was not saved.
        """
        return self._kept.path

    def path_of(self, item: str) -> str:
        """Return the path of a file in its directory.

        Parameters
        ----------
        item
            The file's path in the version.

        Returns
        -------
        str
            Its path on the disk.
        """
        return str(Path(self.path, item.lstrip("/")))

    @property
    def file_size(self) -> int:
        """Bytes of all its files, `model.yaml` among them. No directory is made for this."""
        version = self.saved_version
        with version.open("model.yaml") as descriptor:
            return version.size + len(descriptor.read())

    @property
    def creation_time(self) -> datetime:
        """When it was saved, in UTC."""
        return self._info.creation_time

    @property
    def custom_objects(self) -> dict[str, Any]:
        """The Python objects saved with it. Those of a saved version are unpickled once, when they are first asked for.

        Raises
        ------
        UntrustedObjects
            They were imported without `trust=True`.
        """
        return self.load_custom_objects()

    def load_custom_objects(self, *, trust: bool = False) -> dict[str, Any]:
        """Return the Python objects saved with it.

        Parameters
        ----------
        trust
            Also unpickle objects that were imported without `trust=True`.

        Returns
        -------
        dict[str, Any]
            The objects by name.

        Raises
        ------
        UntrustedObjects
            They were imported without `trust=True`, and `trust` is not set here either.
        """
        if self._custom_objects is None:
            self._custom_objects = self.saved_version.load_custom_objects(trust=trust)
        return self._custom_objects

    def load_model(self, *arguments: Any, **options: Any) -> Any:
        """Call `load_model` of the module that saved it, once, and return what that made; later calls return the same
        object.

        Parameters
        ----------
        arguments, options
            What that `load_model` takes besides the model.

        Returns
        -------
        Any
            What it made.

        Raises
        ------
        CasstoreError
            The model names no module, or one that cannot be imported.
        """
        if self._loaded is None:
            module = self._info.imported_module
            is_bentoml = module.__name__.partition(".")[0] in _BENTOML_PACKAGES
            self._loaded = module.load_model(self._for_bentoml() if is_bentoml else self, *arguments, **options)
        return self._loaded

    def _for_bentoml(self) -> Any:
        # Such a model unpickles its custom objects for every caller, so ours must be free to be unpickled.
        self.custom_objects  # noqa: B018
        model = importlib.import_module("bentoml").Model.from_path(self.path)
        return model.with_options(**self._options) if self._options else model

    def with_options(self, **options: Any) -> Model:
        """Return this model, to be loaded with other options. Nothing is changed in the store.

        Parameters
        ----------
        options
            The options to change.

        Returns
        -------
        Model
            A copy of this one.
        """
        changed = copy(self)
        changed._info = self._info.with_options(**options)
        changed._options = {**self._options, **options}
        changed._custom_objects = self._custom_objects
        return changed

    def export(
        self,
        path: str,
        output_format: str | None = None,
        *,
        protocol: str | None = None,
        user: str | None = None,
        passwd: str | None = None,
        params: dict[str, str] | None = None,
        subpath: str | None = None,
    ) -> str:
        """Write it to an archive, or to a directory given the format `folder`.

        Parameters
        ----------
        path, output_format, protocol, user, passwd, params, subpath
            As in `export_model`.

        Returns
        -------
        str
            The path or URL of the archive.
        """
        target = urls.build(path, protocol=protocol, user=user, passwd=passwd, params=params, subpath=subpath)
        return self._store.export(self.tag, target, format=output_format, default="bentomodel")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was loaded from a saved version; a copy loads it again when it is asked for."""
        loaded = {} if isinstance(self._kept, Draft) else {"_custom_objects": None}
        return {**self.__dict__, **loaded, "_loaded": None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.tag == other.tag

    def __hash__(self) -> int:
        return hash(self.tag)

    def __str__(self) -> str:
        return f'Model(tag="{self.tag}")'

    def __repr__(self) -> str:
        # Where its directory is, or would be: to look at a model must not make one.
        place = self._store.home / "models" / self.tag.name / self.tag.version
        return f'Model(tag="{self.tag}", path="{place}")'


def _info(version: casstore.Model) -> ModelInfo:
    return ModelInfo(
        version.tag, version.module, version.labels, version.options, version.metadata, version.context,
        version.signatures, version.api_version, version.created_at,
    )  # fmt: skip
