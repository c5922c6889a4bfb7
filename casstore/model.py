"""A saved version, as callers see it."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from casstore.actions import resolve, single_files
from casstore.actions.contents import Contents
from casstore.actions.describing import custom_objects as pickling
from casstore.actions.describing import model_yaml, times
from casstore.actions.describing.read_only import ReadOnlyDict
from casstore.actions.directories.exposure import guard
from casstore.actions.directories.materialize import made_whole
from casstore.actions.directories.partial import materialize_some
from casstore.actions.directories.pinning import is_pinned
from casstore.actions.registry import searching
from casstore.actions.reopening import Sent
from casstore.actions.saving.trust import objects_of
from casstore.actions.tensors import arrays, index, loading
from casstore.description import CUSTOM_OBJECTS_NAME, Description
from casstore.digest import Digest
from casstore.errors import CasstoreError, UntrustedObjects
from casstore.late_classes import dataclass
from casstore.notebook import MOST_ROWS, Size, fields, table
from casstore.progress import SILENT, Progress
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import Base, FileEntry
from casstore.tag import Tag

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from casstore.actions.tensors.index import Tensors
    from casstore.actions.tensors.info import TensorInfo
    from casstore.actions.workspace import Workspace
    from casstore.catalog.query import Field
    from casstore.catalog.search import Search
    from casstore.catalog.versions import VersionRow
    from casstore.storage.parents import Parent


@dataclass(frozen=True, slots=True)
class Imported:
    """A version that came with an archive: see `Store.import_archive`.

    Attributes
    ----------
    model
        The version.
    is_new
        False when exactly this version was saved already.
    notes
        What could not be kept as it stood in the archive, one line each.
    """

    model: Model
    is_new: bool
    notes: tuple[str, ...]


class Model:
    """One version: its tag, what was recorded with it, and its files. `Store.get` gives one.

    Everything but `path`, `open` and `custom_objects` is read from the catalog alone. A Model can be pickled: what
    travels is where the store is and which version is meant, and it is opened where it arrives, when it is first used.
    That raises TagNotFound where the version is gone, and StoreNotFound where the store is. Two Models are equal when
    they are of one version.

    Examples
    --------
    >>> model = store.get("bert:v1")
    >>> model.labels["stage"], model.metadata["accuracy"], model.size
    ('dev', 0.93, 3000020)
    >>> [file.path for file in model.files]
    ['config.json', 'model.bin']
    """

    __slots__ = ("_contents", "_described", "_found_tensors", "_opened", "_sent")

    def __init__(self, workspace: Workspace, row: VersionRow) -> None:
        self._opened: tuple[Workspace, VersionRow] | None = (workspace, row)
        self._sent: Sent | None = None  # of one that was pickled
        self._described: Description | None = None
        self._contents: Contents | None = None
        self._found_tensors: Tensors | None = None

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
        self._opened = self._described = self._contents = self._found_tensors = None
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
        """The version's directory: read-only files, and `model.yaml`. It is made or mended first if need be.

        What is found changed or added there goes to quarantine and is named in the log. gc leaves the directory alone
        until the store is closed or the process ends, and for `keep_days` (a setting)
        after that. Where this process may write to read-only files, as root may, and these share their bytes with the
        store, the log says once what a write would do.

        Raises
        ------
        IntegrityError
            The stored bytes are damaged.
        TagNotFound
            The version has been deleted.
        """
        self._workspace.leasing.take(self._row)  # before looking whether the directory stands
        standing = made_whole(self._workspace, self._row, SILENT)
        if self._row.id not in self._workspace.guarded:
            guard(self._workspace, self._row, standing)
        return str(standing.path)

    def __fspath__(self) -> str:
        """Return `path`, for whatever takes a path: `Path(model)`, `os.listdir(model)`, `load(model)`."""
        return self.path

    @property
    def url(self) -> str:
        """The version's URL for whatever opens files by fsspec, such as `casstore://bert:v1`.

        A file's URL is `f"{model.url}/config.json"`, the path as it is: nothing in it is percent-encoded. The store is
        that of `$CASSTORE_HOME`, unless the reader is told another: `storage_options={"home": store.home}`. It needs
        `casstore[fsspec]`.
        """
        return f"casstore://{self.tag}"

    @property
    def is_pinned(self) -> bool:
        """Whether gc never takes its directory away: see `Store.pin`. It is read from the store each time.

        Raises
        ------
        TagNotFound
            The version has been deleted.
        """
        return is_pinned(self._workspace, self._row)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases that mean it, such as `("prod",)` for `bert@prod`, in order: see `Store.set_alias`. They are read
        from the store each time.
        """
        return tuple(self._workspace.catalog.aliases.of_version(self._row.id))

    @property
    def size(self) -> int:
        """Bytes of all files, as a plain copy would take; `model.yaml` is not counted."""
        return self._row.size

    @property
    def created_at(self) -> datetime:
        """When it was saved, or its draft was kept or handed over to be saved in the background, in UTC."""
        return times.timestamp(self._row.created_at_ns)

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the canonical list of files: equal content, equal digest, whatever the tag and the metadata."""
        return Digest(self._row.digest)

    @property
    def file_count(self) -> int:
        """How many files it has; `model.yaml` is not counted."""
        return self._row.file_count

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The files, sorted by path, with size in bytes and BLAKE3 digest. `model.yaml` is not among them.

        Raises
        ------
        TagNotFound
            The version has been deleted.
        """
        return self._files().files

    @property
    def empty_directories(self) -> tuple[str, ...]:
        """The paths of the directories that hold nothing; all others follow from `files`.

        Raises
        ------
        IntegrityError
            The catalog's record of them is damaged.
        """
        return tuple(self._row.directory_paths())

    def _files(self) -> Contents:
        """The files of the version as it stands. Raises TagNotFound."""
        if self._contents is None:
            self._contents = Contents(self._workspace, self._row)
        else:
            self._contents.check_stands()
        return self._contents

    @property
    def labels(self) -> ReadOnlyDict:
        """What it can be found by, text to text. It cannot be changed; `dict(model.labels)` copies it.

        These hold since the model was asked for: what was saved, and over it what `Store.annotate` has added, changed
        or taken away. `saved_labels` are the original.
        """
        labels = self._row.said_later().labels_over(self._description.labels)
        return ReadOnlyDict(labels, f"the labels of {self.tag}")

    @property
    def saved_labels(self) -> ReadOnlyDict:
        """The labels that were saved with it, as its `model.yaml`, archives of it and remotes have them."""
        return ReadOnlyDict(self._description.labels, f"the saved labels of {self.tag}")

    @property
    def metadata(self) -> ReadOnlyDict:
        """What was recorded with it, in JSON's types, NaN and infinities. It cannot be changed.

        Under `metrics` are also those that `Store.annotate` has added. `saved_metadata` is the original.
        """
        metadata = self._row.said_later().metadata_over(self._description.numbers)
        return ReadOnlyDict(metadata, f"the metadata of {self.tag}")

    @property
    def saved_metadata(self) -> ReadOnlyDict:
        """The metadata that was saved with it, as its `model.yaml`, archives of it and remotes have it."""
        return ReadOnlyDict(self._description.numbers, f"the saved metadata of {self.tag}")

    @property
    def module(self) -> str:
        """The Python module that can load the model, as BentoML records it; empty where none was given."""
        return self._description.module

    @property
    def api_version(self) -> str:
        """The version of that module's interface, as BentoML records it."""
        return self._description.api_version

    @property
    def signatures(self) -> ReadOnlyDict:
        """The model's methods, as BentoML records them. They cannot be changed."""
        return ReadOnlyDict(self._description.signatures, f"the signatures of {self.tag}")

    @property
    def options(self) -> ReadOnlyDict:
        """How the model is to be loaded. They cannot be changed."""
        return ReadOnlyDict(self._description.options, f"the options of {self.tag}")

    @property
    def context(self) -> ReadOnlyDict:
        """Framework name and versions, and the Python version that saved it. It cannot be changed."""
        return ReadOnlyDict(self._description.context, f"the context of {self.tag}")

    @property
    def casstore_version(self) -> str:
        """The release of casstore that saved it."""
        return self._row.casstore_version

    @property
    def base(self) -> Base | None:
        """The version that this one came from: as given to `create`, else the one before it under its name; None where
        none was.
        """
        row = self._row
        if row.base_name is None or row.base_version is None or row.base_digest is None:
            return None
        return Base(Tag(row.base_name, row.base_version), Digest(row.base_digest))

    @property
    def parents(self) -> tuple[Parent, ...]:
        """What it came from, in order: versions and other things, each with the relation; see `Store.create`.

        Where nothing else is known, that is its base. `Store.lineage` follows them.

        Raises
        ------
        TagNotFound
            The version has been deleted.
        """
        catalog = self._workspace.catalog
        found = catalog.parents.of(self._row.id)
        if not found:
            resolve.check_stands(catalog, self._row)
        return found

    @property
    def is_untrusted(self) -> bool:
        """Whether its Python objects came in an archive, perhaps as another version's, and no import with `trust` has
        brought them since.
        """
        if not self._description.is_untrusted:
            return False
        objects = objects_of(self._workspace.catalog.versions.files(self._row.id))
        return objects is None or self._workspace.catalog.trust.is_untrusted(objects)

    @property
    def custom_objects(self) -> dict[str, Any]:
        """The Python objects that were saved with it, unpickled now. Unpickling runs code: ask only for what you trust.

        Raises
        ------
        UntrustedObjects
            They came in an archive that was imported without `trust`.
        CasstoreError
            `custom_objects.pkl` does not hold a dict.
        """
        return self.load_custom_objects()

    def load_custom_objects(self, *, trust: bool = False) -> dict[str, Any]:
        """Unpickle the Python objects that were saved with it. Unpickling runs code: ask only for what you trust.

        Parameters
        ----------
        trust
            Also unpickle objects that came in an archive which was imported without `trust`.

        Returns
        -------
        dict[str, Any]
            The objects by name; empty where none were saved.

        Raises
        ------
        UntrustedObjects
            They came in an archive that was imported without `trust`, and `trust` is not set here either.
        CasstoreError
            `custom_objects.pkl` does not hold a dict.
        """
        if self.is_untrusted and not trust:
            raise UntrustedObjects(
                f"the Python objects of {self.tag} came in an archive, and unpickling runs whatever its author wrote; "
                "if you trust them, use model.load_custom_objects(trust=True)"
            )
        if CUSTOM_OBJECTS_NAME not in self._files():
            return {}
        with self.open(CUSTOM_OBJECTS_NAME) as file:
            loaded = pickling.unpickled(file)
        if not isinstance(loaded, dict):
            raise CasstoreError(
                f"{CUSTOM_OBJECTS_NAME} of {self.tag} holds a value of type {type(loaded).__name__}, not a dict"
            )
        return loaded

    def open(self, path: str) -> io.BufferedIOBase:
        """Open one file to be read straight from the chunks, without a directory. Each chunk is checked against its
        digest.

        Parameters
        ----------
        path
            One of `files`, or `model.yaml`.

        Returns
        -------
        io.BufferedIOBase
            A seekable binary reader. It raises IntegrityError at damaged bytes.

        Raises
        ------
        FileNotFoundError
            The version has no such file.
        TagNotFound
            The version has been deleted.

        Examples
        --------
        >>> with store.get("bert").open("config.json") as file:
        ...     file.read()
        b'{"hidden_size": 384}'
        """
        if path == DESCRIPTOR_NAME:
            return io.BytesIO(model_yaml.render(self._workspace.catalog.versions.manifest(self._row, {})))
        return self._files().open(path)

    def read_into(self, path: str, buffer: WriteableBuffer) -> None:
        """Read one whole file straight into memory of your own, on all cores. Each chunk is checked against its digest.

        No directory is made: for loaders that lay tensors over the memory.

        Parameters
        ----------
        path
            One of `files`.
        buffer
            Memory that can be written to, of as many bytes as the file has (`FileEntry.size`), of any type and shape:
            a bytearray, a numpy array, shared memory, `memoryview(mmap)`.

        Raises
        ------
        FileNotFoundError
            The version has no such file.
        TypeError
            The buffer cannot be written to, or is none.
        ValueError
            The buffer has more or fewer bytes than the file, or is not in one piece.
        IntegrityError
            The stored bytes are damaged. Any part of the buffer may have been written to by then.
        TagNotFound
            The version has been deleted, or left to a remote.

        Examples
        --------
        >>> model = store.get("bert")
        >>> sizes = {file.path: file.size for file in model.files}
        >>> weights = bytearray(sizes["model.bin"])
        >>> model.read_into("model.bin", weights)
        >>> len(weights)  # torch.frombuffer(weights, dtype=...) or numpy.frombuffer lays tensors over them
        3000000
        """
        self._files().read_into(path, buffer)

    def read_files(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Read several whole files, one after the other: many small ones much faster than by `open`. Each chunk is
        checked against its digest.

        Parameters
        ----------
        paths
            Paths of `files`, in any order.

        Yields
        ------
        tuple[str, bytes]
            Each path, and the bytes of that file. An error is raised where the file that it is about would come.

        Raises
        ------
        FileNotFoundError
            The version has no such file. This is told before any is read.
        IntegrityError
            The stored bytes are damaged.
        TagNotFound
            The version has been deleted, or left to a remote.

        Examples
        --------
        >>> model = store.get("bert")
        >>> {path: len(raw) for path, raw in model.read_files(file.path for file in model.files)}
        {'config.json': 20, 'model.bin': 3000000}
        """
        wanted = list(paths)
        return zip(wanted, self._files().read(wanted), strict=True)

    @contextmanager
    def as_file(self, path: str) -> Iterator[str]:
        """Give one file a path, for a `with` block, without making the version's directory.

        For loaders that want a path, as `mmap` does. It is that in the version's directory if that stands, else that of
        a copy in memory (on Linux; what is larger than half the free memory goes to a temporary file), which other
        processes may use too. It ends in the file's name, is read-only, and is gone after the block. What was mapped or
        opened by then can still be read. A file that the store keeps as it was is not copied: as in a version's
        directory, a write into it, as root may do, destroys the version.

        Parameters
        ----------
        path
            One of `files`, or `model.yaml`.

        Yields
        ------
        str
            The path.

        Raises
        ------
        FileNotFoundError
            The version has no such file.
        IntegrityError
            The stored bytes are damaged.
        TagNotFound
            The version has been deleted, or left to a remote.

        Examples
        --------
        >>> from pathlib import Path
        >>> with store.get("bert").as_file("config.json") as path:
        ...     Path(path).read_text()
        '{"hidden_size": 384}'
        """
        workspace, row = self._open_again()
        if path == DESCRIPTOR_NAME:
            content = model_yaml.render(workspace.catalog.versions.manifest(row, {}))
            with single_files.descriptor_file(content) as given:
                yield given
            return
        file, recipe = self._files().entry(path)
        standing = single_files.standing_file(workspace, row, file.path)
        if standing is not None:
            yield standing
            return
        with single_files.lent_file(workspace, file, recipe, f"{file.path} of {row.tag}") as given:
            yield given

    def materialize(self, only: str | Iterable[str] | None = None, *, progress: Progress = SILENT) -> str:
        """Make the version's directory, as `path` does; or a directory with some of its files alone.

        With `only`, it is not the version's own place, where versions stand whole or not at all, but one of this
        process's, which is gone when the store is closed or the process ends. `Store.checkout` makes one that stays.

        Parameters
        ----------
        only
            Paths of files, directories, or patterns as of a shell: `["*.safetensors", "config.json"]`.
        progress
            Told how far it is.

        Returns
        -------
        str
            The path of the directory. The files in it are read-only.

        Raises
        ------
        FileNotFoundError
            A pattern fits no file; the text names the nearest.
        IntegrityError
            The stored bytes are damaged.
        StoreUnwritable
            The store can only be read.
        TagNotFound
            The version has been deleted, or left to a remote.

        Examples
        --------
        >>> import os
        >>> os.listdir(store.get("bert").materialize(only=["*.json"]))
        ['config.json']
        """
        if only is None:
            self._workspace.leasing.take(self._row)  # as `path` does
            made_whole(self._workspace, self._row, progress)
            return self.path
        patterns = [only] if isinstance(only, str) else list(only)
        return str(materialize_some(self._workspace, self._row, self._files(), patterns, progress))

    def tensors(self, match: str | None = None, *, file: str | None = None) -> tuple[TensorInfo, ...]:
        """Which tensors its files have, from the catalog alone: no weights are read, and no directory is made.

        They are known in safetensors, GGUF, `torch.save`'s zip archives and npz. Of `torch.save`'s, the names are those
        of parameters, which takes reading the pickle, and of `torch.distributed.checkpoint`'s those that `.metadata`
        gives; nothing is ever unpickled or imported for it.

        Parameters
        ----------
        match
            Only those whose names match a pattern as of a shell, such as `"encoder.*"`.
        file
            Only those of this file, of files in this directory, or that match a pattern.

        Returns
        -------
        tuple[TensorInfo, ...]
            By file, in the order in which they are stored; of `torch.save`'s, in that of the pickle.

        Raises
        ------
        IntegrityError
            The record of a file, or the pickle of one, is damaged.
        TagNotFound
            The version has been deleted.

        Examples
        --------
        >>> import numpy
        >>> numpy.savez("weights.npz", bias=numpy.zeros(4, "f4"), weight=numpy.ones((2, 4), "f4"))
        >>> model = store.save("net:v1", "weights.npz")
        >>> [(tensor.name, tensor.dtype, tensor.shape, tensor.size) for tensor in model.tensors()]
        [('bias', 'F32', (4,), 16), ('weight', 'F32', (2, 4), 32)]
        """
        return tuple(each.info for each in self._tensors().select(match, file))

    def tensor(self, name: str, framework: str = "numpy", *, file: str | None = None, rows: slice | None = None) -> Any:
        """Read one tensor straight from the chunks. Only those that it stands in are decoded, and each is checked; and
        once, before the first tensor of a file, what its header stands in: the record of the tensors must fit it.

        Parameters
        ----------
        name
            Its name, as `tensors` gives it.
        framework
            "numpy" or "torch".
        file
            Its file, where several have different tensors of that name; or a pattern.
        rows
            Only these of its first dimension: `slice(100, 200)`.

        Returns
        -------
        numpy.ndarray | torch.Tensor
            Memory of its own, that may be written to. A tensor that `torch.save` has written with strides has them
            here too. NumPy has BF16 and the 8-bit floats through the package `ml_dtypes`, where that is installed.
            GGUF's quantized blocks are bytes (uint8), in rows.

        Raises
        ------
        KeyError
            There is no tensor of that name; the text names the nearest.
        ValueError
            Several files have different tensors of that name; without `file`, a file of a format that would be
            preferred cannot be read; or `framework` or `rows` is none.
        TypeError
            Its dtype is not known, or the framework has none such. Or `rows` is not a slice.
        ModuleNotFoundError
            PyTorch, or `ml_dtypes` for a dtype of which NumPy has none, is not installed.
        IntegrityError
            The stored bytes are damaged.
        TagNotFound
            The version has been deleted, or left to a remote.

        Examples
        --------
        >>> import numpy
        >>> numpy.savez("weights.npz", weight=numpy.arange(4, dtype="f4").reshape(2, 2))
        >>> store.save("net:v1", "weights.npz").tensor("weight", rows=slice(1, 2))
        array([[2., 3.]], dtype=float32)
        """
        found = self._tensors()
        return loading.load_one(found.source, found.named(name, file), arrays.framework(framework), rows)

    def state_dict(
        self, match: str | None = None, framework: str = "torch", *, file: str | None = None, device: Any = None
    ) -> dict[str, Any]:
        """Read the weights straight from the chunks, without a directory: many tensors at once, on all cores.

        Files are read in order and ahead of what is decoded, each tensor into memory of its own.

        Parameters
        ----------
        match
            Only tensors whose names match a pattern as of a shell, such as `"encoder.*"`.
        framework
            "torch" or "numpy".
        file
            Of this file, of files in this directory, or that match a pattern. Without it, of the files that hold the
            weights: safetensors if there are any, else GGUF, else PyTorch's, else npz; and where an index of
            shards stands beside them, such as `model.safetensors.index.json`, those that it lists.
        device
            Where PyTorch is to have them, such as `"cuda"`: each goes there as soon as it is read. `"meta"` reads
            nothing.

        Returns
        -------
        dict[str, numpy.ndarray | torch.Tensor]
            By name, in the order of `tensors`; for `load_state_dict`. Tensors that share a storage in a file of
            `torch.save`, as tied weights do, share memory here too.

        Raises
        ------
        ValueError
            Two of the files have different tensors of one name: say which by `file`. Or one of them cannot be read
            as tensors, as of a format that is not known here. Or `framework` is none.
        FileNotFoundError
            A file that an index of shards lists is not in the version.
        KeyError
            Nothing matches; the text names the nearest. Or an index lists a tensor that its shard does not have.
        TypeError
            The dtype of one is not known, or the framework has none such.
        ModuleNotFoundError
            PyTorch, or `ml_dtypes` for a dtype of which NumPy has none, is not installed.
        IntegrityError
            The stored bytes are damaged.
        TagNotFound
            The version has been deleted, or left to a remote.

        Examples
        --------
        >>> import numpy
        >>> numpy.savez("weights.npz", bias=numpy.zeros(2, "f4"), weight=numpy.ones((2, 2), "f4"))
        >>> weights = store.save("net:v1", "weights.npz").state_dict(framework="numpy")
        >>> {name: array.shape for name, array in weights.items()}
        {'bias': (2,), 'weight': (2, 2)}
        """
        found = self._tensors()
        return loading.load(found.source, found.weights(match, file), arrays.framework(framework, device))

    def _tensors(self) -> Tensors:
        """Raises TagNotFound, IntegrityError, OSError."""
        contents = self._files()
        if self._found_tensors is None:
            source = index.Source(str(self.tag), contents.files, self._workspace.objects, contents.recipes)
            self._found_tensors = index.Tensors(source)
        return self._found_tensors

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
    """What `Store.list` gives: a list that is read from the catalog when it is first looked at.

    Versions that are saved after the call are not in it. `[0]` and `[:10]` of a list that nothing has looked at read no
    more than that. A notebook shows it as a table.
    """

    _pending: tuple[Workspace, Search] | None = None

    @classmethod
    def _of(cls, workspace: Workspace, search: Search) -> Models:
        made = cls()
        made._pending = workspace, search
        return made

    def _read(self) -> None:
        if self._pending is not None:
            workspace, search = self._pending
            read = [Model(workspace, row) for row in workspace.catalog.searches.rows(search)]
            super().__setitem__(slice(None), read)  # of two threads both may do it
            self._pending = None

    def __getitem__(self, index: Any) -> Any:
        if self._pending is not None:
            workspace, search = self._pending
            if isinstance(index, slice) and _is_first(index):
                return self._of(workspace, search.first(index.stop))
            if type(index) is int and index == 0:
                first = self._of(workspace, search.first(1))
                first._read()
                return first[0]
        self._read()
        return super().__getitem__(index)

    def __radd__(self, before: list[Model]) -> list[Model]:
        return [*before, *self]

    def __reduce_ex__(self, protocol: object) -> tuple[type[Models], tuple[list[Model]]]:
        return Models, ([*self],)

    def _repr_html_(self) -> str:
        rows = [(m.tag, Size(m.size), m.file_count, m.created_at, m.labels) for m in self[:MOST_ROWS]]
        return table(("tag", "size", "files", "created", "labels"), rows, len(self))


def _is_first(wanted: slice) -> bool:
    """Whether a slice is of the first items, as many as it says."""
    return not wanted.start and wanted.step in (None, 1) and isinstance(wanted.stop, int) and wanted.stop >= 0


def _after_reading(name: str) -> Callable[..., Any]:
    """A method of lists, for one that is read first."""
    method = getattr(list, name)

    @functools.wraps(method)
    def call(self: Models, *arguments: Any, **named: Any) -> Any:
        self._read()
        return method(self, *arguments, **named)

    return call


for _name in (
    "__add__", "__contains__", "__delitem__", "__eq__", "__ge__", "__gt__", "__iadd__", "__imul__", "__iter__",
    "__le__", "__len__", "__lt__", "__mul__", "__ne__", "__repr__", "__reversed__", "__rmul__", "__setitem__",
    "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort",
):  # fmt: skip
    setattr(Models, _name, _after_reading(_name))


def table_of(workspace: Workspace, models: Sequence[Model], columns: Sequence[Field]) -> list[dict[str, Any]]:
    """Versions as rows of a table, in their order."""
    rows = [model._row for model in models]
    wanted = {field.root for field in columns}
    aliases = workspace.catalog.searches.aliases(row.id for row in rows) if "alias" in wanted else {}
    pinned = workspace.catalog.searches.pinned(row.id for row in rows) if "pinned" in wanted else set()
    return [
        searching.Facts(row, model.labels, model.metadata, aliases.get(row.id, []), row.id in pinned).cells(columns)
        for row, model in zip(rows, models, strict=True)
    ]
