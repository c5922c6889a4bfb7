"""Artifacts of MLflow in a store: `casstore://bert:v1` is a version, and below `casstore://NAME` MLflow keeps its own.

MLflow finds this module by its entry point. Each logged model is one version, of the model's name; so is what a run has
logged, of the name `mlflow-run-` and the beginning of its id.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import os
import posixpath
import re
import tempfile
import threading
import unicodedata
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, NoReturn, TypeVar

from mlflow.entities import FileInfo
from mlflow.exceptions import InvalidUrlException, MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path
from mlflow.utils.file_utils import create_tmp_dir

import casstore
from casstore.integrations.urls import DESCRIPTOR, READ_ONLY, Tree, split

_OTHER_NAMES = "other-names"  # where a version has the artifacts that cannot have their own names in it
_ID = re.compile(r"(m-|tr-)?([0-9a-f]{32})")
_SERVERS_BACKEND = "_MLFLOW_SERVER_FILE_STORE"  # set by `mlflow server`; a server knows its models by no other URI
_READ_BYTES = 1 << 20
_Result = TypeVar("_Result")


class _Turns:
    """Locks by which the threads of a process change a root one after another, instead of each other's work in vain."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A forked child has not the threads that may have held these."""
        self._locks = [threading.Lock() for _ in range(16)]

    def of(self, root: _Root) -> threading.Lock:
        return self._locks[int(root.id[-1], 16)]


class _Root(NamedTuple):
    """Where MLflow keeps what one run, model or trace has logged: `path` ends in `<id>/artifacts`."""

    kind: str
    id: str
    path: str

    @property
    def labels(self) -> dict[str, str]:
        return {"mlflow.kind": self.kind, "mlflow.id": self.id}

    def states(self, store: casstore.Store) -> list[casstore.Model]:
        """The versions that hold it, the newest last: more than one only until the older are deleted."""
        found = [(self._number(each.version), each) for each in store.list(labels={"mlflow.id": self.id})]
        if not found:  # it may have been left to a remote, and is pulled
            gone = [each.tag for each in store.elsewhere() if self._number(each.tag.version)]
            found = [(self._number(tag.version), store.get(tag)) for tag in gone]
        return [model for number, model in sorted(found, key=lambda each: each[0]) if number]

    def _number(self, version: str) -> int:
        """The how manyth state of it a version is; 0 where it is something else with this label, such as a copy."""
        if version == self.id:
            return 1
        number = version.removeprefix(f"{self.id}.")
        return int(number) if number != version and number.isdecimal() else 0

    def next_version(self, store: casstore.Store, name: str, before: casstore.Model | None) -> str:
        """Of a number above those in the trash, too: one that is brought back is not the newest state."""
        earlier = [each.tag.version for each in store.deleted(name)] if before is None else [before.version]
        number = max(map(self._number, earlier), default=0) + 1
        return self.id if number == 1 else f"{self.id}.{number}"

    @classmethod
    def find(cls, path: str) -> tuple[_Root | None, str]:
        """The root that a path is in, and the path in it."""
        parts = path.split("/")
        for number, (part, following) in enumerate(itertools.pairwise(parts)):
            is_id = _ID.fullmatch(part)
            if is_id and following == "artifacts":
                traced = is_id[1] == "tr-" or "traces" in parts[max(0, number - 1) : number]
                kind = "model" if is_id[1] == "m-" else "trace" if traced else "run"
                return cls(kind, part, "/".join(parts[: number + 2])), "/".join(parts[number + 2 :])
        return None, path


_turns = _Turns()
_repositories: weakref.WeakSet[CasstoreArtifactRepository] = weakref.WeakSet()


def _begin_in_child() -> None:
    """A forked child has not the threads of a pool either, which would wait for them."""
    _turns.begin()
    for each in list(_repositories):
        each.thread_pool = each._create_thread_pool()


os.register_at_fork(after_in_child=_begin_in_child)


class CasstoreArtifactRepository(ArtifactRepository):  # type: ignore[misc]  # not installed for development
    """The artifacts at a `casstore://` URI, in the store of `$CASSTORE_HOME`, or else `~/.casstore`.

    `casstore://NAME:VERSION` and `casstore://NAME@ALIAS` are versions, and read-only. At other URIs only what is in a
    run's, a logged model's or a trace's own place is read and written: a change of it is a new version, whose files the
    store has already but for what is new, and the one before it is deleted. What MLflow deletes goes to the trash.

    Errors are MLflow's, with the code that its servers turn into an HTTP status.
    """

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        _repositories.add(self)
        self._reference, self._inner = split(artifact_uri.partition(":")[2].strip("/"))
        self._is_version = ":" in self._reference or "@" in self._reference

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Add a file, or replace that of its name."""
        local_file = os.path.abspath(local_file)
        if not os.path.isfile(local_file):
            raise MlflowException(f"{local_file} is not a file", INVALID_PARAMETER_VALUE)
        self._log({os.path.basename(local_file): local_file}, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Add the files of a directory, or replace those of their names. Empty directories are not kept."""
        local_dir = os.path.abspath(local_dir)
        self._log(
            {
                os.path.relpath(os.path.join(directory, name), local_dir).replace(os.sep, "/"): f"{directory}/{name}"
                for directory, _, names in os.walk(local_dir, followlinks=True)
                for name in names
            },
            artifact_path,
        )

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """What is directly in a directory; nothing where `path` is a file, or is not there."""

        def listed(model: casstore.Model, inner: str) -> list[FileInfo]:
            tree = Tree(_store(), model, _names(model))
            return [
                FileInfo(
                    posixpath.join(path or "", posixpath.basename(each)),
                    each not in tree.files,
                    tree.files[each].size if each in tree.files else None,
                )
                for each in sorted(tree.directories.get(inner, ()))
            ]

        return self._read(path, listed) or []

    def download_artifacts(self, artifact_path: str | None, dst_path: str | None = None) -> str:
        """The path of a file or directory: without `dst_path` in the version's own directory, where nothing changes.

        MLflow writes a file of its own beside those of a registered model, so the directory of a model is a new one, of
        hardlinks, or of copies where temporary files are on another file system than the store.
        What a run has logged is copied: what it logs next would take that directory away.
        """
        local = None if dst_path else self.get_local_path(artifact_path or "")
        if local is None:
            return str(super().download_artifacts(artifact_path or "", dst_path))
        if not os.path.isfile(f"{local}/MLmodel"):
            return local
        own = str(create_tmp_dir())

        def linked(model: casstore.Model, inner: str) -> str:
            try:
                _store().checkout(model.tag, own, link=True)
            except casstore.InvalidSource:  # temporary files are on another file system than the store
                _store().checkout(model.tag, own)
            return os.path.join(own, *filter(None, inner.split("/")))

        return self._read(artifact_path, linked) or self._none_such(artifact_path)

    def get_local_path(self, artifact_path: str) -> str | None:
        """The path of a file or directory of a version or a logged model.

        None for what a run has logged, and for directories of a version in which files have other names.
        """
        root, _ = self._where(artifact_path)
        if root is not None and root.kind != "model":
            return None

        def found(model: casstore.Model, inner: str) -> list[str]:
            stored = self._stored(model, inner)
            path = os.path.join(model.path, *stored.split("/")) if stored else model.path
            if _names(model) and not os.path.isfile(path):
                return []
            if not os.path.exists(path):
                self._none_such(artifact_path)
            return [path]

        paths = self._read(artifact_path, found)
        if paths is None:
            self._none_such(artifact_path)
        return paths[0] if paths else None

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete a file, a directory or all; the store keeps them in its trash for a while. What is not there is none.

        Of a run or a model of which an alias of the store means a state, not all is deleted at once.
        """
        root, inner = self._where(artifact_path)
        if root is None:
            raise MlflowException(READ_ONLY, INVALID_PARAMETER_VALUE)

        def delete() -> None:
            states = _states(root)
            if states and inner:
                self._change(root, {}, inner)
            elif states:
                try:
                    _store().delete([model.tag for model in states])
                except (casstore.VersionAliased, casstore.AliasProtected) as error:
                    # Of MLflow's errors the one after which `mlflow gc` goes on, with what else it has to delete.
                    raise InvalidUrlException(str(error), INVALID_PARAMETER_VALUE) from error

        _do(delete)

    def _download_file(self, remote_file_path: str, local_path: str | os.PathLike[str]) -> None:
        def written(model: casstore.Model, inner: str) -> bool:
            with model.open(self._stored(model, inner)) as source, open(local_path, "wb") as target:
                while raw := source.read(_READ_BYTES):
                    target.write(raw)
            return True

        if not self._read(remote_file_path, written):
            self._none_such(remote_file_path)

    def _where(self, path: str | None) -> tuple[_Root | None, str]:
        """The root that a path is in, and the path in it; no root, where the URI names a version."""
        parts = [part for part in [*self._inner.split("/"), *(path or "").split("/")] if part]
        if {".", ".."} & {*parts, *self._reference.split("/")}:
            raise MlflowException(f"{path or ''!r} leads out of {self.artifact_uri}", INVALID_PARAMETER_VALUE)
        inner = "/".join(parts)
        if self._is_version:
            return None, inner
        whole = "/".join(filter(None, [self._reference, inner]))
        root, inner = _Root.find(whole)
        if root is None and {":", "@"} & {*whole}:
            raise MlflowException(
                f"{whole!r} is nothing that MLflow logged: {self.artifact_uri} leads to no other versions; for a "
                f"version that the store has, write casstore://{whole}",
                INVALID_PARAMETER_VALUE,
            )
        if root is None:
            name = self._reference or "NAME"
            raise MlflowException(
                f"casstore://{whole} names no version: write casstore://{name}:VERSION or casstore://{name}@ALIAS. As "
                f"the location of an experiment's artifacts it can be written to by runs and models alone",
                INVALID_PARAMETER_VALUE,
            )
        return root, inner

    def _read(self, path: str | None, read: Callable[[casstore.Model, str], _Result]) -> _Result | None:
        """What `read` makes of the version that a path is in, and the path in it; None where nothing was logged yet."""
        root, inner = self._where(path)

        def find_and_read() -> _Result | None:
            if root is None:
                return read(_store().get(self._reference), inner)
            while states := _states(root):
                try:
                    return read(states[-1], inner)
                except casstore.TagNotFound:
                    continue  # it was changed meanwhile
            return None

        return _do(find_and_read)

    def _stored(self, model: casstore.Model, inner: str) -> str:
        """Where a version has the artifact of a path."""
        for stored, name in _names(model).items():
            if name == inner:
                return stored
        if inner == DESCRIPTOR and not self._is_version:
            self._none_such(inner)  # that is casstore's
        return inner

    def _none_such(self, path: str | None) -> NoReturn:
        raise MlflowException(f"{self.artifact_uri} has no artifact {path or ''!r}", RESOURCE_DOES_NOT_EXIST)

    def _log(self, found: Mapping[str, str], path: str | None) -> None:
        verify_artifact_path(path)
        root, inner = self._where(path)
        if root is None:
            raise MlflowException(READ_ONLY, INVALID_PARAMETER_VALUE)
        if found:
            added = {posixpath.join(inner, each): local for each, local in found.items()}
            _do(lambda: self._change(root, added))

    def _change(self, root: _Root, added: Mapping[str, str], dropped: str | None = None) -> None:
        """Save the next state of a root. Another process may do so, too: then begin again with what it saved."""
        store = _store(create=True)
        with _turns.of(root):
            while True:
                states = root.states(store)
                before = states[-1] if states else None
                try:
                    saved = self._save_next(store, root, before, added, dropped)
                    if saved is None:
                        return
                    # One that is newer may have been made before this one, whose tag had become free again.
                    if root.states(store)[-1:] == [saved]:
                        break
                except (casstore.TagExists, casstore.TagNotFound, casstore.InvalidSource, OSError):
                    if root.states(store)[-1:] == states[-1:]:
                        raise
            for state in states:
                # For good: nothing is lost but what was replaced. What an alias means stays. So does a state that was
                # brought back from the trash and has a file that the newest has not.
                with contextlib.suppress(casstore.TagNotFound, casstore.VersionAliased, casstore.AliasProtected):
                    if state is before or _contents(state) <= _contents(saved):
                        store.delete(state.tag, now=dropped is None)

    def _save_next(
        self, store: casstore.Store, root: _Root, before: casstore.Model | None, added: Mapping[str, str],
        dropped: str | None,
    ) -> casstore.Model | None:  # fmt: skip
        """Save the files of `before` and what is added, without those at or in `dropped`; None: nothing changes."""
        had = {} if before is None else Tree(store, before, _names(before)).files
        kept = [each for each in had if dropped is None or not _is_in(each, dropped)]
        if dropped is not None and len(kept) == len(had):
            return None
        name, labels, metadata = self._described(root) if before is None else _same(before)
        stored = _placed({each: had[each].path for each in kept}, added)
        metadata = {**metadata, "mlflow": _with_names(metadata.get("mlflow", {}), stored)}
        tag = casstore.Tag(name, root.next_version(store, name, before))
        parents = [] if before is None else before.parents
        links = {stored[each]: local for each, local in added.items()}
        if before is not None:
            directory = before.path  # asked for once: it is looked through each time
            links = {stored[each]: os.path.join(directory, had[each].path) for each in kept} | links
        with tempfile.TemporaryDirectory(prefix="casstore-mlflow-") as linked:
            _link(links, linked)
            return store.save(
                tag, linked, ignore=False, allow_empty=True, labels=labels, metadata=metadata, parents=parents
            )

    def _described(self, root: _Root) -> tuple[str, dict[str, str], dict[str, Any]]:
        """The name of the versions of a root, their labels and metadata."""
        uri = f"casstore://{root.path}"
        name = f"mlflow-{root.kind}-{root.id[-32:][:8]}"
        if root.kind != "model":
            return name, root.labels, {"mlflow": {f"{root.kind}_id": root.id, "artifact_uri": uri}}
        from mlflow import MlflowClient

        said = {"model_id": root.id, "artifact_uri": uri}
        try:
            logged = MlflowClient(self.tracking_uri or os.environ.get(_SERVERS_BACKEND)).get_logged_model(root.id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise  # or another call might find its name, and save beside this one
        else:
            said |= {"run_id": logged.source_run_id, "name": logged.name}
            with contextlib.suppress(casstore.InvalidTag):
                name = casstore.slug(logged.name)
        return name, root.labels, {"mlflow": said}


def _names(model: casstore.Model) -> dict[str, str]:
    """The artifacts that have other names in their version: theirs, by where it has them."""
    said = model.saved_metadata.get("mlflow")
    names = said.get("names") if isinstance(said, Mapping) else None
    return {str(stored): str(name) for stored, name in names.items()} if isinstance(names, Mapping) else {}


def _with_names(said: Mapping[str, Any], stored: Mapping[str, str]) -> dict[str, Any]:
    """What a version says of its artifacts, with the names that `_names` reads, if any."""
    names = {path: name for name, path in stored.items() if path != name}
    said = {key: value for key, value in said.items() if key != "names"}
    return {**said, "names": names} if names else said


def _placed(stored: Mapping[str, str], added: Iterable[str]) -> dict[str, str]:
    """Where the next version has each artifact: where the last had it, or in another place than the name says, if a
    version cannot have that: two paths that differ by case only, or its descriptor's."""
    placed = dict(stored)
    taken = set(placed.values())
    spelled = {DESCRIPTOR: ""}

    def take(path: str) -> None:
        taken.add(path)
        spelled.update((_folded(each), each) for each in _with_those_above(path))

    for path in placed.values():
        take(path)
    for name in added:
        if name not in placed:
            places = itertools.chain([name], (f"{_OTHER_NAMES}/{number}/{name}" for number in itertools.count(1)))
            placed[name] = next(
                place
                for place in places
                if place not in taken
                and all(spelled.get(_folded(each), each) == each for each in _with_those_above(place))
            )
            take(placed[name])
    return placed


def _with_those_above(path: str) -> list[str]:
    return list(itertools.accumulate(path.split("/"), lambda above, name: f"{above}/{name}"))


def _folded(path: str) -> str:
    """As a file system has it that does not tell case, or Unicode forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _link(files: Mapping[str, str], directory: str) -> None:
    """Put links to files into a directory that is to be saved: those that the store has are not read then."""
    for path, local in files.items():
        link = os.path.join(directory, *path.split("/"))
        try:
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(local, link)
        except (FileExistsError, NotADirectoryError):
            problem = f"{path!r} cannot be added: a file and a directory would have one name"
            raise MlflowException(problem, INVALID_PARAMETER_VALUE) from None


def _same(model: casstore.Model) -> tuple[str, dict[str, str], dict[str, Any]]:
    return model.name, dict(model.labels), dict(model.saved_metadata)


def _contents(model: casstore.Model) -> set[tuple[str, str]]:
    names = _names(model)
    return {(names.get(file.path, file.path), str(file.digest)) for file in model.files}


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def _states(root: _Root) -> list[casstore.Model]:
    try:
        return root.states(_store())
    except casstore.StoreNotFound:
        return []  # nothing was logged yet


def _store(*, create: bool = False) -> casstore.Store:
    return casstore.store_at(create=create)


def _do(work: Callable[[], _Result]) -> _Result:
    """Do what uses the store, and return its result. Errors become MLflow's.

    The threads of MLflow's pools and queues stay. A store that one of them has used could not be used in a child that
    is forked later, so the work of a thread other than the main one is done in a thread that ends with it.
    """
    done: Future[_Result] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            done.set_exception(error)

    with _told():
        if threading.current_thread() is threading.main_thread():
            return work()  # a fork closes what this thread has open, and Ctrl-C is to end it
        thread = threading.Thread(target=run, name="casstore-mlflow")
        try:
            thread.start()
        except RuntimeError:  # the interpreter is about to end, and forks no more
            return work()
        thread.join()
        return done.result()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors become MLflow's, with a code that its servers make an HTTP status of."""
    try:
        yield
    except (casstore.TagNotFound, casstore.StoreNotFound, FileNotFoundError) as error:
        raise MlflowException(str(error), RESOURCE_DOES_NOT_EXIST) from error
    except (casstore.IntegrityError, casstore.StoreError, casstore.RemoteError) as error:
        raise MlflowException(str(error), INTERNAL_ERROR) from error
    except casstore.CasstoreError as error:
        raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error
