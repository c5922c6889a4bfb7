"""A saved version, as callers see it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import cloudpickle

from casstore.actions import resolve
from casstore.actions.describing import model_yaml
from casstore.actions.describing.read_only import ReadOnlyDict
from casstore.actions.directories.exposure import guard
from casstore.actions.directories.materialize import materialize
from casstore.actions.directories.pinning import is_pinned
from casstore.actions.reopening import Sent
from casstore.actions.saving.trust import objects_of
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.description import CUSTOM_OBJECTS_NAME, Description
from casstore.digest import Digest
from casstore.errors import CasstoreError, UntrustedObjects
from casstore.notebook import MOST_ROWS, Size, fields, table
from casstore.progress import SILENT
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import Base, FileEntry
from casstore.storage.names import as_stored
from casstore.storage.recipe import Recipe
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class Imported:
    """A version that came with an archive: see `Store.import_archive`.

    `is_new`: false when the very same was saved already. `notes`: what could not be kept as it stood, in words.
    """

    model: Model
    is_new: bool
    notes: tuple[str, ...]


class Model:
    """One version: its tag, what was recorded with it, and its files. Get one from `Store.get`, never by itself.

    Everything but `path`, `open` and `custom_objects` is read from the catalog alone. It may be pickled: what travels
    is where the store is and which version, and it is opened where it arrives, when it is first used. That raises
    TagNotFound where the version is gone, StoreNotFound where the store is.
    """

    __slots__ = ("_described", "_opened", "_sent")

    def __init__(self, workspace: Workspace, row: VersionRow) -> None:
        self._opened: tuple[Workspace, VersionRow] | None = (workspace, row)
        self._sent: Sent | None = None  # of one that was pickled
        self._described: Description | None = None

    @property
    def _workspace(self) -> Workspace:
        return self._open_again()[0]

    @property
    def _row(self) -> VersionRow:
        return self._open_again()[1]

    def _open_again(self) -> tuple[Workspace, VersionRow]:
        if self._opened is None and self._sent is not None:
            self._opened = self._sent.open()
        if self._opened is None:
            raise CasstoreError("this Model was never made; store.get(TAG) gives one")
        return self._opened

    def __getstate__(self) -> Sent:
        return self._sent or Sent.of(self._workspace, self._row)

    def __setstate__(self, sent: Sent) -> None:
        self._opened = self._described = None
        self._sent = sent

    def __copy__(self) -> Model:
        return self  # a version never changes

    def __deepcopy__(self, memo: object) -> Model:
        return self

    @property
    def tag(self) -> Tag:
        """`name:version`; `str(model.tag)` gives that text."""
        return self._row.tag if self._sent is None else self._sent.tag

    @property
    def name(self) -> str:
        """The part of its tag before the colon."""
        return self._row.tag.name

    @property
    def version(self) -> str:
        """The part of its tag after the colon."""
        return self._row.tag.version

    @property
    def path(self) -> str:
        """The version's directory: read-only files, and `model.yaml`. Made or mended first if need be.

        gc leaves it alone from now on until the store is closed or the process ends, and for some days after that
        (the setting `keep_days`). Raises IntegrityError when the bytes are damaged, TagNotFound when the version
        has been deleted. Where this process may write to read-only files, as root may, and they share their bytes with
        the store, the log says once what a write would do.
        """
        self._workspace.leasing.take(self._row)  # before looking whether the directory stands
        directory = str(materialize(self._workspace, self._row, SILENT))
        if self._row.id not in self._workspace.guarded:
            guard(self._workspace, self._row)
        return directory

    def __fspath__(self) -> str:
        """`path`, for whatever takes a path: `Path(model)`, `os.listdir(model)`, `Net.from_pretrained(model)`."""
        return self.path

    @property
    def is_pinned(self) -> bool:
        """Whether gc never takes its directory away: see `Store.pin`. Read anew each time.

        Raises TagNotFound when the version has been deleted.
        """
        return is_pinned(self._workspace, self._row)

    @property
    def size(self) -> int:
        """Bytes of all files, as a plain copy would take; `model.yaml` is not counted."""
        return self._row.size

    @property
    def created_at(self) -> datetime:
        """When it was saved, in UTC."""
        return model_yaml.timestamp(self._row.created_at_ns)

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the canonical list of files: equal content, equal digest, whatever the tag and the metadata."""
        return Digest(self._row.digest)

    @property
    def file_count(self) -> int:
        return self._row.file_count

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The files, sorted by path, with size in bytes and BLAKE3 digest. `model.yaml` is not among them.

        Raises TagNotFound when the version has been deleted.
        """
        return tuple(resolve.files(self._workspace.catalog, self._row))

    @property
    def labels(self) -> ReadOnlyDict:
        """Text to text; a dict that cannot be changed, as all that was recorded. `dict(model.labels)` copies it."""
        return ReadOnlyDict(self._description.labels, f"the labels of {self.tag}")

    @property
    def metadata(self) -> ReadOnlyDict:
        """As it was saved, in JSON's types, NaN and infinities; it cannot be changed."""
        return ReadOnlyDict(self._description.numbers, f"the metadata of {self.tag}")

    @property
    def module(self) -> str:
        return self._description.module

    @property
    def api_version(self) -> str:
        return self._description.api_version

    @property
    def signatures(self) -> ReadOnlyDict:
        return ReadOnlyDict(self._description.signatures, f"the signatures of {self.tag}")

    @property
    def options(self) -> ReadOnlyDict:
        return ReadOnlyDict(self._description.options, f"the options of {self.tag}")

    @property
    def context(self) -> ReadOnlyDict:
        """Framework name and versions, and the Python version that saved it."""
        return ReadOnlyDict(self._description.context, f"the context of {self.tag}")

    @property
    def casstore_version(self) -> str:
        return self._row.casstore_version

    @property
    def base(self) -> Base | None:
        """The version that this one came from: as given to `create`, else the one before it under the same name."""
        row = self._row
        if row.base_name is None or row.base_version is None or row.base_digest is None:
            return None
        return Base(Tag(row.base_name, row.base_version), Digest(row.base_digest))

    @property
    def is_untrusted(self) -> bool:
        """Whether its Python objects came in an archive, be it as another version's, and nobody has said since, by an
        import with `trust`, that they are trusted."""
        if not self._description.is_untrusted:
            return False
        objects = objects_of(self._workspace.catalog.versions.files(self._row.id))
        return objects is None or self._workspace.catalog.trust.is_untrusted(objects)

    @property
    def custom_objects(self) -> dict[str, Any]:
        """The Python objects saved with it, unpickled now. Unpickling runs code: ask only for what you trust.

        Raises UntrustedObjects when they came in an archive that was imported without `trust`, CasstoreError when
        `custom_objects.pkl` does not hold a dict.
        """
        return self.load_custom_objects()

    def load_custom_objects(self, *, trust: bool = False) -> dict[str, Any]:
        """The same; with `trust` also those that came in an archive which nobody has said may be trusted."""
        if self.is_untrusted and not trust:
            raise UntrustedObjects(
                f"the Python objects of {self.tag} came in an archive, and unpickling runs whatever its author wrote; "
                "if you trust them, use model.load_custom_objects(trust=True)"
            )
        if all(file.path != CUSTOM_OBJECTS_NAME for file in self.files):
            return {}
        with self.open(CUSTOM_OBJECTS_NAME) as file:
            loaded = cloudpickle.load(file)
        if not isinstance(loaded, dict):
            raise CasstoreError(
                f"{CUSTOM_OBJECTS_NAME} of {self.tag} holds a value of type {type(loaded).__name__}, not a dict"
            )
        return loaded

    def open(self, path: str) -> io.BufferedIOBase:
        """A seekable binary reader of one file, straight from the chunks, each checked against its digest.

        Raises FileNotFoundError for a path the version does not have, TagNotFound when it has been deleted, and
        IntegrityError while reading damaged bytes.
        """
        if path == DESCRIPTOR_NAME:
            return io.BytesIO(model_yaml.render(self._workspace.catalog.versions.manifest(self._row, {})))
        for file in self.files:
            if path in (file.path, as_stored(file.path)):
                stored = self._workspace.catalog.index.recipes([file.digest])
                recipe = stored.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)
                return self._workspace.objects.open_blob(recipe, f"{path} of {self.tag}")
        raise FileNotFoundError(f"{self.tag} has no file {path!r}; model.files lists what it has")

    @property
    def _description(self) -> Description:
        if self._described is None:
            self._described = self._row.described()
        return self._described

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self._manifest_id == other._manifest_id

    def __hash__(self) -> int:
        return hash(self._manifest_id)

    @property
    def _manifest_id(self) -> str:
        return self._row.manifest_id if self._sent is None else self._sent.manifest_id

    def __repr__(self) -> str:
        return f"Model({str(self.tag)!r})"

    def _repr_html_(self) -> str:
        shown = {
            "size": Size(self.size), "files": self.file_count, "created": self.created_at, "digest": self.digest,
            "base": None if self.base is None else self.base.tag, "labels": self.labels, "metadata": self.metadata,
        }  # fmt: skip
        return fields(str(self.tag), shown)


class Models(list[Model]):
    """What `Store.list` gives: a list, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        rows = [(m.tag, Size(m.size), m.file_count, m.created_at, m.labels) for m in self[:MOST_ROWS]]
        return table(("tag", "size", "files", "created", "labels"), rows, len(self))
