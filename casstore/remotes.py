"""Remotes, as callers see them: versions in an object store or a directory, to push to, pull from, and read."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from casstore.actions import elsewhere_file, resolve
from casstore.actions.describing import times
from casstore.actions.describing.read_only import ReadOnlyDict
from casstore.actions.exchange import elsewhere
from casstore.actions.exchange.arrivals import Wishes
from casstore.actions.exchange.importing import materialize_newest
from casstore.actions.exchange.local_chunks import LocalChunks
from casstore.actions.exchange.pull import pull_version
from casstore.actions.exchange.pull_files import PulledFiles, pull_files
from casstore.actions.exchange.push import Pushed, push_version
from casstore.actions.exchange.remote_cache import live_refs
from casstore.actions.exchange.remote_versions import RemoteStatus, local_rows, remote_tags, status
from casstore.actions.registry import searching_lists
from casstore.actions.registry.searching import Wanted
from casstore.actions.saving.trust import Trust
from casstore.actions.tensors import arrays, index, loading
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import InvalidSignature, NoRemote, RemoteError, TagNotFound
from casstore.model import Model
from casstore.progress import SILENT, Progress
from casstore.remote import keys
from casstore.remote.address import RemoteAddress
from casstore.remote.bucket import Bucket
from casstore.remote.collect import RemoteGcReport, collect, with_pushes
from casstore.remote.deleting import delete
from casstore.remote.directory import DirectoryBackend
from casstore.remote.documents import Ref
from casstore.remote.reading import RemoteVersion
from casstore.remote.repacking import RemoteRepackReport, repack
from casstore.remote.summing_up import sum_up
from casstore.remote.transfers import workers
from casstore.remote.verifying import RemoteReport, verify
from casstore.storage.manifest import FileEntry
from casstore.tag import Tag

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from casstore.actions.tensors.index import Tensors
    from casstore.actions.tensors.info import TensorInfo
    from casstore.storage.recipe import Recipe

_READERS = 16
_Tags = str | Tag | Iterable[str | Tag]


@dataclass(frozen=True, slots=True)
class Pulled:
    """A version that was pulled: see `Remote.pull`.

    Attributes
    ----------
    model
        The version, as it is saved here.
    is_new
        False when it was saved here already.
    received_bytes
        What travelled.
    notes
        What could not be done, one line each, such as a directory that could not be made.
    """

    model: Model
    is_new: bool
    received_bytes: int
    notes: tuple[str, ...] = ()


class RemoteModel:
    """One version of a remote: what it is, and its files, read from where they are. `Remote.get` gives one.

    Examples
    --------
    >>> store.remote("origin").push("bert:v1")[0].is_new
    True
    >>> there = store.remote("origin").get("bert:v1")
    >>> there.tag, there.labels["stage"]
    (Tag(name='bert', version='v1'), 'dev')
    >>> there.open("config.json").read()
    b'{"hidden_size": 384}'
    """

    __slots__ = ("_found_tensors", "_version")

    def __init__(self, version: RemoteVersion) -> None:
        self._version = version
        self._found_tensors: Tensors | None = None

    @property
    def tag(self) -> Tag:
        """`name:version`; `str(model.tag)` gives that text."""
        return self._version.ref.tag

    @property
    def url(self) -> str:
        """Where it is: the remote's URL."""
        return self._version.bucket.name

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the canonical list of files, the same as `Model.digest`."""
        return self._version.ref.digest

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._version.ref.size

    @property
    def created_at(self) -> datetime:
        """When it was saved, in UTC."""
        return times.timestamp(self._version.ref.created_at_ns)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The files, sorted by path, with size in bytes and BLAKE3 digest."""
        return self._version.manifest.files

    @property
    def labels(self) -> ReadOnlyDict:
        """What it can be found by, text to text."""
        return ReadOnlyDict(self._version.manifest.description.labels, f"the labels of {self.tag}")

    @property
    def metadata(self) -> ReadOnlyDict:
        """What was recorded with it, in JSON's types, NaN and infinities."""
        return ReadOnlyDict(self._version.manifest.description.numbers, f"the metadata of {self.tag}")

    def open(self, path: str) -> io.BufferedIOBase:
        """Open one file, to be read by ranges from where it is. Each chunk is checked against its digest.

        Chunks that the store of the remote has, if there is one, are read there.

        Parameters
        ----------
        path
            One of `files`.

        Returns
        -------
        io.BufferedIOBase
            A seekable binary reader. It raises IntegrityError at damaged bytes, and RemoteError.

        Raises
        ------
        FileNotFoundError
            The version has no such file.
        """
        return self._version.open(path)

    def read_into(self, path: str, buffer: WriteableBuffer) -> None:
        """Read one whole file into memory of your own, as `Model.read_into` does, by ranges from where it is.

        Parameters
        ----------
        path
            One of `files`.
        buffer
            Memory that can be written to, of as many bytes as the file has.

        Raises
        ------
        FileNotFoundError
            The version has no such file.
        TypeError
            The buffer cannot be written to, or is none.
        ValueError
            The buffer has more or fewer bytes than the file, or is not in one piece.
        IntegrityError
            The bytes there are damaged.
        RemoteError
            The remote cannot be read.
        """
        self._version.read_into(path, buffer)

    def tensors(self, match: str | None = None, *, file: str | None = None) -> tuple[TensorInfo, ...]:
        """Which tensors its files have, as `Model.tensors` tells: what was fetched for the version tells most of it.

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
            The bytes there are damaged.
        RemoteError
            The remote cannot be read.
        """
        return tuple(each.info for each in self._tensors().select(match, file))

    def tensor(self, name: str, framework: str = "numpy", *, file: str | None = None, rows: slice | None = None) -> Any:
        """Read one tensor, as `Model.tensor` does: only the ranges that it stands in are asked for.

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
            Memory of its own, that may be written to.

        Raises
        ------
        KeyError
            There is no tensor of that name; the text names the nearest.
        ValueError
            Several files have different tensors of that name; or `framework` or `rows` is none.
        TypeError
            Its dtype is not known, or the framework has none such.
        ModuleNotFoundError
            PyTorch, or `ml_dtypes` for a dtype of which NumPy has none, is not installed.
        IntegrityError
            The bytes there are damaged.
        RemoteError
            The remote cannot be read.
        """
        found = self._tensors()
        return loading.load_one(found.source, found.named(name, file), arrays.framework(framework), rows)

    def state_dict(
        self, match: str | None = None, framework: str = "torch", *, file: str | None = None, device: Any = None
    ) -> dict[str, Any]:
        """Read the weights, as `Model.state_dict` does: only the ranges that they stand in are asked for.

        Nothing is saved or written here. Chunks that the store of the remote has, if there is one, are read there.

        Parameters
        ----------
        match
            Only tensors whose names match a pattern as of a shell, such as `"encoder.*"`.
        framework
            "torch" or "numpy".
        file
            Of this file, of files in this directory, or that match a pattern; without it, of the files that hold the
            weights.
        device
            Where PyTorch is to have them, such as `"cuda"`: each goes there as soon as it is read. `"meta"` reads
            nothing.

        Returns
        -------
        dict[str, numpy.ndarray | torch.Tensor]
            By name, in the order of `tensors`.

        Raises
        ------
        ValueError
            Two of the files have different tensors of one name: say which by `file`. Or `framework` is none.
        TypeError
            The dtype of one is not known, or the framework has none such.
        ModuleNotFoundError
            PyTorch, or `ml_dtypes` for a dtype of which NumPy has none, is not installed.
        IntegrityError
            The bytes there are damaged.
        RemoteError
            The remote cannot be read.

        Examples
        --------
        >>> import numpy
        >>> numpy.savez("weights.npz", bias=numpy.zeros(2, "f4"), weight=numpy.ones((2, 2), "f4"))
        >>> _ = store.save("net:v1", "weights.npz"), store.remote("origin").push("net:v1")
        >>> weights = store.remote("origin").get("net:v1").state_dict("w*", framework="numpy")
        >>> {name: array.shape for name, array in weights.items()}
        {'weight': (2, 2)}
        """
        found = self._tensors()
        return loading.load(found.source, found.weights(match, file), arrays.framework(framework, device))

    def _tensors(self) -> Tensors:
        """Raises IntegrityError, RemoteError, OSError."""
        if self._found_tensors is None:
            manifest = self._version.manifest

            def recipes(wanted: Collection[FileEntry]) -> Mapping[Digest, Recipe]:
                return {file.digest: manifest.recipe_of(file) for file in wanted}

            source = index.Source(str(self.tag), manifest.files, self._version.objects, recipes)
            self._found_tensors = index.Tensors(source)
        return self._found_tensors

    def checkout(
        self,
        directory: str | os.PathLike[str],
        files: str | Iterable[str] | None = None,
        *,
        replace: bool = False,
        progress: Progress = SILENT,
    ) -> PulledFiles:
        """Copy files into a directory of your own, fetching only what they are made of. Nothing is saved in a store.

        Chunks that the store has are read there. Each file is there when it is complete, and checked. What has come
        when this is cut short stays, and need not come again.

        Parameters
        ----------
        directory
            Where to; it is made if need be, and may hold other things.
        files
            Paths, directories or patterns, of which `*` also stands for `/`; None for every file.
        replace
            Whether files that are there with other content give way. Those with the same stay in any case.
        progress
            Told of bytes that are written.

        Returns
        -------
        PulledFiles
            What was written, and what stood there.

        Raises
        ------
        FileNotFoundError
            The version has no such file.
        FileExistsError
            Something else is in the place of a file.
        InvalidSource
            `directory` is inside a store.
        IntegrityError
            What came is damaged.
        RemoteError
            The remote cannot be reached.

        Examples
        --------
        >>> store.remote("origin").push("bert:v1")[0].is_new
        True
        >>> done = store.remote("origin").get("bert:v1").checkout("parts", "*.json")
        >>> done.written
        ['config.json']
        """
        patterns = [files] if isinstance(files, str) else None if files is None else list(files)
        return pull_files(self._version, Path(directory), patterns, progress, replace=replace)

    def __repr__(self) -> str:
        return f"RemoteModel({str(self.tag)!r})"


class Remote:
    """Versions in an object store or a directory. `Store.remote` gives one that can also push and pull.

    Nothing is asked of it before the first call. Threads may share it; a forked child must open its own. It is a
    context manager; `close` may also be called.

    Parameters
    ----------
    url
        `s3://bucket/prefix`, `gs://...`, `az://...`, `https://...`, or the path of a directory.
    endpoint
        The URL of a server that speaks S3, for what is not AWS itself.
    region
        Of the bucket.
    anonymous
        Whether to ask without credentials, as of a public bucket.
    profile
        A profile of `~/.aws/config`, read by boto3.
    credential_process
        A command that prints credentials in AWS's format.

    Raises
    ------
    RemoteError
        The URL is not one that casstore knows, or there are no credentials.

    Examples
    --------
    >>> casstore.Remote(remote_url).list()
    []
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        anonymous: bool = False,
        profile: str | None = None,
        credential_process: str | None = None,
    ) -> None:
        address = RemoteAddress(url, endpoint, region, anonymous, profile, credential_process)
        self._address = address.checked()
        self._workspace: Workspace | None = None
        self._opened: Bucket | None = None

    @classmethod
    def _of(cls, workspace: Workspace, address: RemoteAddress) -> Remote:
        remote = cls.__new__(cls)
        remote._address, remote._workspace, remote._opened = address.checked(), workspace, None
        return remote

    @property
    def url(self) -> str:
        """Where it is."""
        return self._address.url

    @property
    def _bucket(self) -> Bucket:
        if self._opened is None:
            self._opened = Bucket.open(self._address.open())
        return self._opened

    def _ensure(self, *, single_writer: bool, make: bool) -> None:
        """See that a remote stands there, and make one if need be. Raises RemoteUnsafe, RemoteNotFound, RemoteError."""
        backend = self._address.open()
        try:
            if make and isinstance(backend, DirectoryBackend):
                backend.check_own()
            self._opened = Bucket.make(backend, single_writer=single_writer) if make else Bucket.open(backend)
            if self._address.url.startswith("http"):  # of which some have the marker, and cannot be listed
                self._opened.newest_epoch()
        except BaseException:
            backend.close()
            raise

    @property
    def _store(self) -> Workspace:
        if self._workspace is None:
            raise NoRemote(
                "this Remote was opened without a store; Store.remote(NAME) gives one that can push and pull"
            )
        return self._workspace

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Bucket]:
        """The remote. Where the user interrupts, requests that are on their way are given up."""
        try:
            yield self._bucket
        except Exception:
            raise
        except BaseException:
            self.close()  # the next call opens it again
            raise

    def list(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, Any] | None = None,
        where: str | None = None,
        sort: str | Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Sequence[Ref]:
        """Return what is there: of each version its tag, digest, size, labels and time.

        Parameters
        ----------
        name
            Only versions of this name, or of names that fit a pattern such as `run-*`.
        labels, where, sort, limit
            As in `Store.list`. A remote lists `tag`, `name`, `version`, `size`, `created`, `digest` and `labels.KEY`.

        Returns
        -------
        Sequence[Ref]
            The newest first, or as `sort` says.

        Raises
        ------
        InvalidTag, InvalidMetadata
            As from `Store.list`.
        InvalidQuery
            `where` or `sort` cannot be understood, or has fields that a remote does not list, such as metadata.
        RemoteNotFound
            No remote stands there.
        RemoteError
            It cannot be reached.

        Examples
        --------
        >>> store.remote("origin").push("bert:v1")[0].is_new
        True
        >>> [str(ref.tag) for ref in store.remote("origin").list(where="labels.stage = dev and created < 7d")]
        ['bert:v1']
        """
        search = searching_lists.parsed(Wanted(name, labels, where, sort, limit))
        with self._asking() as bucket, workers(_READERS) as pool:
            if self._workspace is not None:
                refs = live_refs(self._workspace, bucket, pool, search.one_name)
            else:
                refs = [ref for ref, _ in bucket.read_refs(keys.live(bucket.refs(search.one_name)), pool)]
        return searching_lists.found(refs, search)

    def table(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, Any] | None = None,
        where: str | None = None,
        sort: str | Sequence[str] | None = None,
        limit: int | None = None,
        columns: str | Sequence[str] | None = None,
    ) -> Sequence[dict[str, Any]]:
        """List what is there as rows of a table, as `Store.table` does.

        Parameters
        ----------
        name, labels, where, sort, limit
            As in `list`.
        columns
            Fields that a remote lists, such as "tag,labels.stage"; by default tag, size, created and labels.

        Returns
        -------
        Sequence[dict[str, Any]]
            One row for each version.

        Raises
        ------
        InvalidTag, InvalidMetadata, InvalidQuery, RemoteNotFound, RemoteError
            As from `list`.
        """
        fields = searching_lists.columns_of(columns)
        refs = self.list(name, labels=labels, where=where, sort=sort, limit=limit)
        return [searching_lists.cells(ref, fields) for ref in refs]

    def get(self, tag: str | Tag) -> RemoteModel:
        """Return one version, to be looked at or read without pulling it.

        Parameters
        ----------
        tag
            `name:version`; a name alone, or `name:latest`, for the newest version.

        Returns
        -------
        RemoteModel
            The version.

        Raises
        ------
        TagNotFound
            It is not there.
        RemoteError
            The remote cannot be reached.
        """
        with self._asking() as bucket:
            local = None if self._workspace is None else LocalChunks(self._workspace)
            return RemoteModel(RemoteVersion.find(bucket, self._exact(tag), local))

    def _exact(self, tag: str | Tag) -> Tag:
        text = str(tag)
        name, _, version = text.partition(":")
        if isinstance(tag, str) and version in ("", "latest"):
            found = self.list(resolve.name(name), limit=1)
            if not found:
                raise TagNotFound(f"no version of {name!r} is in {self.url}; `casstore list --remote` shows what is")
            return found[0].tag
        return Tag.parse(text)

    def push(
        self, tags: _Tags | None = None, *, dry_run: bool = False, progress: Progress = SILENT
    ) -> Sequence[Pushed]:
        """Bring versions there, as far as they are not there: the oldest first, and only the chunks that it lacks.

        A version is there wholly or not at all. What has arrived when this is cut short is used by the next push.
        Signatures go along, also those that were made since a version was pushed.

        Parameters
        ----------
        tags
            Tags, names (for every version) or patterns such as `bert:v*`. None for every version of the store.
        dry_run
            Only tell which versions are not there.
        progress
            Told of bytes that travel.

        Returns
        -------
        Sequence[Pushed]
            One for each version; `is_new` is false for what was there.

        Raises
        ------
        TagNotFound
            Nothing is saved here that one of `tags` fits.
        TagExists
            Another version has the tag there; those before it have been pushed.
        RemoteError
            The remote cannot be reached.
        OutcomeUnknown
            An answer was lost. The same push, made again, goes on.
        """
        workspace = self._store
        rows = local_rows(workspace, _texts(tags))
        with self._asking() as bucket:
            if dry_run:
                with workers(_READERS) as pool:
                    there = {ref.tag: ref.digest for ref in live_refs(workspace, bucket, pool)}
                return [Pushed(row.tag, there.get(row.tag) != row.digest) for row in rows]
            return [push_version(workspace, bucket, row, progress) for row in rows]

    def pull(
        self,
        tags: _Tags | None = None,
        *,
        as_tag: str | Tag | None = None,
        trust: bool = False,
        materialize: bool = True,
        dry_run: bool = False,
        progress: Progress = SILENT,
    ) -> Sequence[Pulled]:
        """Fetch versions, as far as they are not here: only the chunks that the store lacks.

        They keep their times, and take their place among the versions of their names by these. Their signatures come
        along, also of versions that are here. What has come when this is cut short stays until the next gc, and need
        not come again.

        Parameters
        ----------
        tags
            Tags, names (for every version) or patterns such as `bert:v*`. None for every version of the remote.
        as_tag
            Save the one version under this tag instead.
        trust
            Whether Python objects in them may be unpickled: see `Model.custom_objects`.
        materialize
            Whether to make the directory of what is the newest of its name then.
        dry_run
            Fetch nothing: the versions that are not here are left out of what is returned.
        progress
            Told of bytes that travel.

        Returns
        -------
        Sequence[Pulled]
            One for each version; `is_new` is false for what was here.

        Raises
        ------
        TagNotFound
            Nothing is there that one of `tags` fits.
        TagExists
            Another version has the tag here.
        InvalidSignature
            The setting `require_signature` asks for a signature, and it has none that is valid. All others have been
            pulled.
        InvalidSource
            The keys of `require_signature` cannot be read.
        IntegrityError
            What came is damaged; nothing of that version is visible.
        RemoteError
            The remote cannot be reached.
        """
        workspace = self._store
        with self._asking() as bucket:
            wanted = self._remote_tags(bucket, _texts(tags))
            target = None if as_tag is None else Tag.parse(str(as_tag))
            if target is not None and len(wanted) != 1:
                raise RemoteError(f"{len(wanted):,} versions are meant, which one tag cannot name; leave out as_tag")
            if dry_run:
                here = (workspace.catalog.versions.find(tag) for tag in wanted)
                return [Pulled(Model(workspace, row), False, 0) for row in here if row is not None]
            wishes = Wishes(
                target,
                Trust.GIVEN if trust else Trust.NONE,
                durable=workspace.catalog.setting("durability") == "full",
                materialize=materialize,
            )
            given_up = {each.tag for each in workspace.catalog.remotes.elsewhere()}
            found, refused = [], []
            for tag in wanted:
                try:
                    found.append(pull_version(workspace, bucket, tag, wishes, progress))
                except InvalidSignature as error:  # whoever may push could keep all others from coming
                    refused.append(error)
        for row in (each.row for each in found):
            if row.tag in given_up:
                elsewhere_file.forget(workspace, row.tag)
        rows = [each.row for each in found if each.is_new]
        notes = materialize_newest(workspace, rows, progress) if materialize else {}
        if refused:
            raise _together(refused, len(found))
        return [
            Pulled(
                Model(workspace, each.row),
                each.is_new,
                each.received_bytes,
                (*each.notes, *notes.get(each.row.id, ())),
            )
            for each in found
        ]

    def _remote_tags(self, bucket: Bucket, texts: Sequence[str] | None) -> Sequence[Tag]:
        if texts is not None and all(_is_exact(text) for text in texts):
            return [self._exact(text) for text in texts]
        with workers(_READERS) as pool:
            return remote_tags(live_refs(self._store, bucket, pool), texts, bucket.name)

    def _give_up(self, name: str, row: VersionRow) -> None:
        """See Store.evict."""
        with self._asking() as bucket:
            elsewhere.give_up(self._store, bucket, name, row)

    def status(self) -> RemoteStatus:
        """Compare the store with the remote, by tags and digests.

        Returns
        -------
        RemoteStatus
            What is only here, only there, and different.

        Raises
        ------
        RemoteError
            The remote cannot be reached.
        """
        with self._asking() as bucket, workers(_READERS) as pool:
            return status(self._store, bucket, pool)

    def delete(self, tags: _Tags) -> Sequence[str]:
        """Delete versions there: the names go at once, bytes at the next `gc`. To have one back, push it again.

        Parameters
        ----------
        tags
            `name:version`, or several.

        Returns
        -------
        Sequence[str]
            The tags that were deleted.

        Raises
        ------
        TagNotFound
            One is not there; those before it have been deleted.
        RemoteError
            The remote cannot be reached.
        """
        wanted = [Tag.parse(text) for text in _texts(tags) or ()]
        with self._asking() as bucket:
            for tag in wanted:
                delete(bucket, tag)
        return [str(tag) for tag in wanted]

    def gc(self, *, dry_run: bool = False, give_up_after: timedelta = timedelta(days=7)) -> RemoteGcReport:
        """Remove what no version there needs, as far as that is safe while others push; run again, it goes on.

        Parameters
        ----------
        dry_run
            Only tell what would go.
        give_up_after
            How long a push may have brought nothing, by the store's clock, before it is ended, so that what it has left
            can go. One that is under way after all starts over by itself.

        Returns
        -------
        RemoteGcReport
            What went, and which pushes have to be waited for.

        Raises
        ------
        IntegrityError
            What a version needs cannot be told, so that nothing is removed.
        RemoteError
            The remote cannot be reached.
        """
        with self._asking() as bucket, workers(_READERS) as pool:
            revoke_after_ns = round(give_up_after.total_seconds() * 1e9)
            report = collect(bucket, pool, dry_run=dry_run, revoke_after_ns=revoke_after_ns)
            if not dry_run:
                sum_up(bucket, pool)
            return with_pushes(bucket, report, pool)

    def repack(self, *, dry_run: bool = False, progress: Progress = SILENT) -> RemoteRepackReport:
        """Rewrite packs of which at least half is dead; the next `gc` frees what that leaves behind.

        Parameters
        ----------
        dry_run
            Only tell what it would do.
        progress
            Told of bytes that are copied.

        Returns
        -------
        RemoteRepackReport
            How many packs, and what the next gc frees.

        Raises
        ------
        IntegrityError
            A version's ref or segment is damaged or gone.
        RemoteError
            The remote cannot be reached, or was changed meanwhile: run it again.
        """
        with self._asking() as bucket, workers(_READERS) as pool:
            return repack(bucket, pool, progress, dry_run=dry_run)

    def verify(self, *, deep: bool = False) -> RemoteReport:
        """See that all that versions there need is there; with `deep`, read it and compare it with its digests.

        Parameters
        ----------
        deep
            Whether to read every byte.

        Returns
        -------
        RemoteReport
            What is wrong, and which versions cannot be pulled because of it.

        Raises
        ------
        RemoteError
            The remote cannot be reached.
        """
        with self._asking() as bucket, workers(_READERS) as pool:
            return verify(bucket, pool, deep=deep)

    def close(self) -> None:
        """Give up requests that are on their way, and let go of connections. The next call opens them again."""
        if self._opened is not None:
            self._opened.backend.close()
            self._opened = None

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"


def _together(refused: Sequence[InvalidSignature], pulled: int) -> InvalidSignature:
    """One error for all versions that were refused beside others."""
    if len(refused) + pulled == 1:
        return refused[0]
    return InvalidSignature(f"{refused[0]}; refused are {len(refused):,} versions, and {pulled:,} are here")


def _texts(tags: _Tags | None) -> list[str] | None:
    if tags is None:
        return None
    return [str(tags)] if isinstance(tags, str | Tag) else [str(tag) for tag in tags]


def _is_exact(text: str) -> bool:
    return ":" in text and not set(text) & set("*?[")
