"""Taking over models that stand as directories: a BentoML home, or any directory of `name/version/`.

Of each name the oldest version is adopted first, each atomically: versions of different names may appear in one
transaction. After an interruption the same call continues: what is already there is only compared. In the store's own
tree a directory becomes the version's in place, and is never away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from casstore.actions.describing import model_yaml
from casstore.actions.describing.model_yaml import Descriptor
from casstore.actions.directories.materialize import mend, take_over
from casstore.actions.directories.survey import ModelTree, foreign_among, survey, tag_at
from casstore.actions.exchange.arrivals import Arrival, Wishes
from casstore.actions.exchange.importing import Coming, request_of, take_in
from casstore.actions.exchange.look_ahead import LookAhead
from casstore.actions.packs.durability import secure
from casstore.actions.saving import comparing
from casstore.actions.saving.finish import finish_saves, unfinished_saves
from casstore.actions.saving.request import Handling, SaveRequest
from casstore.actions.saving.save import save_together
from casstore.actions.saving.trust import Trust
from casstore.actions.sources.homes import check_part, is_home
from casstore.actions.sources.source import Source, check_as_found, find_source, is_unchanged, remove_source
from casstore.actions.workspace import Workspace
from casstore.catalog.containers import ChunkVanished
from casstore.description import Description
from casstore.errors import CasstoreError, FileChanged, InvalidSource, InvalidTag, StoreError, TagExists
from casstore.notebook import Shown
from casstore.progress import SILENT, Progress
from casstore.storage import files
from casstore.storage.layout import LATEST_NAME
from casstore.storage.locks import Lock
from casstore.storage.sessions import Session
from casstore.tag import Tag

# A directory in which nothing has changed for this long is not being copied to. BentoML first gives a directory its
# name, and then copies file by file. Each file is open for writing while it is copied, which a lease shows; this is for
# the moments between two files.
QUIET_NS = 1_000_000_000
# Of directories adopted in one transaction: above that, syncs and transactions are next to nothing.
_MOST_TOGETHER, _TOGETHER_BYTES = 32, 256 << 20
_TIMEOUT_S = 24 * 3600.0  # how long to wait for another adoption, of perhaps a terabyte
# What a system call reports for a file that is gone, or that this user may not read.
_OF_ONE_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}


@dataclass(frozen=True, slots=True)
class Refused:
    """A directory that was left alone.

    Attributes
    ----------
    path
        The directory.
    reason
        Why it was left alone.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdoptReport(Shown):
    """What `Store.adopt` did.

    Attributes
    ----------
    adopted
        Tags of versions that are new in the store.
    present
        Tags of versions that were saved already, exactly the same.
    refused
        Directories that were left alone.
    notes
        What could not be kept unchanged, and what is not a version, one line each.
    logical_bytes
        Bytes of the adopted versions' files.
    added_bytes
        By how many bytes the store's own files have grown.
    """

    adopted: tuple[str, ...]
    present: tuple[str, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]
    logical_bytes: int
    added_bytes: int

    @property
    def shared_bytes(self) -> int:
        """The bytes that plain copies would have taken and the store does not."""
        return max(0, self.logical_bytes - self.added_bytes)


@dataclass(frozen=True, slots=True)
class Adoptable:
    """A directory that is to become a version. It is looked at again immediately before."""

    path: Path
    tag: Tag
    created_at_ns: int
    size: int
    changed_ns: int


def in_rounds(found: Sequence[Adoptable], kept: Collection[Path]) -> list[Adoptable]:
    """The order in which directories are adopted: the oldest of each name, then the next of each. Those that keep a
    directory come last in each round."""
    if all(each.path in kept for each in found):
        return list(found)
    counts = Counter[str]()
    rounds = []
    for each in found:
        rounds.append(counts[each.tag.name])
        counts[each.tag.name] += 1
    ordered = sorted(zip(rounds, found, strict=True), key=lambda pair: (pair[0], pair[1].path in kept))
    return [each for _, each in ordered]


def groups(ordered: Sequence[Adoptable], kept: Collection[Path]) -> Iterator[list[Adoptable]]:
    """The directories that are adopted in one transaction: neighbours of different names, since a version is stored
    against the one before it of its name. Large ones, and those that keep a directory, are adopted by themselves."""
    group: list[Adoptable] = []
    for each in ordered:
        is_alone = each.path in kept
        is_full = len(group) == _MOST_TOGETHER or sum(one.size for one in group) + each.size > _TOGETHER_BYTES
        if group and (is_alone or is_full or each.tag.name in {one.tag.name for one in group}):
            yield group
            group = []
        if is_alone:
            yield [each]
        else:
            group.append(each)
    if group:
        yield group


class _Looks:
    """Looks at directories in the order in which they are adopted, one ahead."""

    def __init__(self, ahead: LookAhead, adoption: Adoption, kept: Collection[Path], order: list[Adoptable]) -> None:
        self._ahead = ahead
        self._adoption = adoption
        self._kept = kept
        self._begun: dict[Path, Future[Source]] = {}
        self._done: set[Path] = set()
        self.order = order
        self._places = {each.path: place for place, each in enumerate(order)}

    def of(self, each: Adoptable) -> Future[Source]:
        """What is in a directory, which is not kept in memory any longer."""
        place = self._places[each.path]
        for coming in self.order[place : place + 2]:
            if coming.path not in self._begun and (coming is each or coming.path not in self._done):
                # Files that are taken over are hashed once no other process can write to them any more.
                is_taken = self._adoption.move and coming.path in self._kept
                is_hashed = not is_taken and not self._adoption.is_in_tree(coming.path)
                self._begun[coming.path] = self._ahead.look(coming.path, is_hashed=is_hashed)
        self._done.add(each.path)
        return self._begun.pop(each.path)


@dataclass(slots=True)
class Adoption:
    """Adopts directories one by one, and records the results. `move`: adopted files are removed from where they stood,
    unless that is in the store's own tree."""

    workspace: Workspace
    durable: bool
    move: bool
    progress: Progress
    adopted: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conflicts: list[Path] = field(default_factory=list)  # directories refused because another version has their tag
    logical_bytes: int = 0

    def __post_init__(self) -> None:
        # Files that are removed here must certainly be on disk in the store.
        self.durable = self.durable or self.move

    def find(self, paths: Sequence[Path]) -> list[Adoptable]:
        """The versions in these directories, oldest first. Directories that cannot be adopted are refused.

        Directories that changed a moment ago are looked at again after a pause, and refused if they have changed.
        """
        found, fresh = [], []
        for path in paths:
            source = self._look(path)
            if source is not None and time.time_ns() - source.changed_ns < QUIET_NS:
                fresh.append((path, source))
            elif source is not None:
                found.append(self._described(path, source))
        if fresh:
            time.sleep(QUIET_NS / 1e9)
        for path, before in fresh:
            source = self._look(path)
            if source is not None and source.changed_ns == before.changed_ns:
                found.append(self._described(path, source))
            elif source is not None:
                self.refuse(path, _being_written(path))
        return sorted(filter(None, found), key=lambda each: (each.created_at_ns, each.tag))

    def _look(self, path: Path) -> Source | None:
        for directory in (path, path.parent):
            if is_home(directory):
                self.refuse(path, f"{directory} is a store of casstore's own, or a part of one")
                return None
        try:
            return find_source(path)
        except InvalidSource as error:
            self.refuse(path, str(error))
        return None

    def _described(self, path: Path, source: Source) -> Adoptable | None:
        try:
            tag = self._tag_of(path)
            if self._is_remains(tag, source):
                remove_source(source)
                return None
            described = describe_source(source, tag)
        except (InvalidSource, InvalidTag) as error:
            self.refuse(path, str(error))
            return None
        return Adoptable(path, tag, described.created_at_ns, source.size, source.changed_ns)

    def refuse(self, path: Path, reason: str) -> None:
        self.refused.append(Refused(str(path), reason))

    def _tag_of(self, path: Path) -> Tag:
        tag = tag_at(path)
        if self.is_in_tree(path) and path != self.workspace.layout.model(tag):
            raise InvalidTag(f"tags are in lower case; rename the directory to {self.workspace.layout.model(tag)}")
        return tag

    def is_in_tree(self, path: Path) -> bool:
        """Whether a directory stands in the store's own tree."""
        return path.parent.parent == self.workspace.layout.models

    def _handling(self, path: Path) -> Handling:
        if self.is_in_tree(path):
            return Handling.BECOME
        return Handling.TAKE_WATCHED if self.move else Handling.COPY_WATCHED

    def take_all(self, found: Sequence[Adoptable]) -> None:
        """Adopt what has been found. In the store's tree all versions keep their directories. Otherwise the newest of
        each name gets one; with the setting `materialize`, all do."""
        keeps_all = self.workspace.catalog.setting("materialize") == "all"
        newest = {each.tag.name: each.path for each in found}
        kept = {each.path for each in found if keeps_all or self.is_in_tree(each.path)} | set(newest.values())
        self.progress.start("adopt", sum(each.size for each in found))
        try:
            with self.workspace.session() as session, LookAhead() as ahead:
                looks = _Looks(ahead, self, kept, in_rounds(found, kept))
                for group in groups(looks.order, kept):
                    alone = self._take_together(session, group, looks) if len(group) > 1 else group
                    for each in alone:
                        hashing = _Hashing(self.progress)
                        self._take(session, each, looks.of(each), each.path in kept, hashing)
                        self.progress.advance(max(0, each.size - hashing.done_bytes))
        finally:
            self.progress.finish()
            places = {str(each.tag): place for place, each in enumerate(found)}
            for tags in (self.adopted, self.present):
                tags.sort(key=lambda tag: places.get(tag, -1))

    def _take_together(self, session: Session, group: Sequence[Adoptable], looks: _Looks) -> Sequence[Adoptable]:
        """Adopt directories in one transaction; returns those that have to be adopted by themselves."""
        coming: dict[Tag, Coming] = {}
        hashing: dict[Tag, _Hashing] = {}

        def requests() -> Iterator[tuple[SaveRequest, Progress]]:
            for each in group:
                if self.workspace.catalog.versions.find(each.tag) is not None:
                    continue
                try:
                    new = self._coming(each, looks.of(each))
                except (CasstoreError, OSError):  # said when it is adopted by itself
                    continue
                coming[each.tag], hashing[each.tag] = new, _Hashing(self.progress)
                yield request_of(self.workspace, new, self._wishes(each, materialize=False)), hashing[each.tag]

        try:
            apart = save_together(self.workspace, session, requests())
        except ChunkVanished:
            return group
        except CasstoreError as error:
            if isinstance(error, StoreError):
                raise
            return group
        except OSError as error:
            if error.errno not in _OF_ONE_FILE:
                raise
            return group
        for each in group:
            row = self.workspace.catalog.versions.find(each.tag) if each.tag in coming.keys() - apart else None
            if row is not None:
                with self._refusing(each):
                    arrival = Arrival(row, True, coming[each.tag].described.notes)
                    self._note(each, coming[each.tag].source, arrival)
                self.progress.advance(max(0, each.size - hashing[each.tag].done_bytes))
        return [each for each in group if each.tag not in coming.keys() - apart]

    def _coming(self, each: Adoptable, look: Future[Source]) -> Coming:
        """What has been found in a directory, which must not have been changed since. Raises what the look does."""
        source = look.result()
        if source.changed_ns > each.changed_ns:
            raise FileChanged(_being_written(each.path))
        return Coming(source, describe_source(source, each.tag), self._handling(each.path))

    def _wishes(self, each: Adoptable, *, materialize: bool) -> Wishes:
        # These files are the user's own, who could unpickle them in place as well.
        return Wishes(each.tag, trust=Trust.AS_KNOWN, durable=self.durable, materialize=materialize)

    def _take(
        self, session: Session, each: Adoptable, look: Future[Source], materialize: bool, progress: Progress
    ) -> None:
        """Adopt one directory, or record why not. Raises OSError and StoreError that concern the store itself."""
        with self._refusing(each):
            coming = self._coming(each, look)
            draft = session.new_path()
            if materialize:
                files.make_directory(draft)
            try:
                wishes = self._wishes(each, materialize=materialize)
                arrival = take_in(self.workspace, session, draft, coming, wishes, progress)
            finally:
                files.remove_tree(draft)
            self._note(each, coming.source, arrival)

    @contextlib.contextmanager
    def _refusing(self, each: Adoptable) -> Iterator[None]:
        """Record an error of a `with` block that concerns one directory as the reason why it was left alone."""
        try:
            yield
        except CasstoreError as error:
            if isinstance(error, StoreError):
                raise
            if isinstance(error, TagExists):
                self.conflicts.append(each.path)
            self.refuse(each.path, str(error))
        except OSError as error:
            if error.errno not in _OF_ONE_FILE or not str(error.filename).startswith(f"{each.path}"):
                raise
            self.refuse(each.path, f"{error.filename}: {error.strerror}")

    def _note(self, each: Adoptable, source: Source, arrival: Arrival) -> None:
        """Make what has been adopted stand where it should, and record it."""
        is_in_tree = self.is_in_tree(each.path)
        if is_in_tree and arrival.is_new:
            mend(self.workspace, arrival.row, SILENT)  # if models/ is on another file system
        elif is_in_tree:
            take_over(self.workspace, arrival.row, source, SILENT)
        elif self.move and not is_in_tree:
            self._remove(source, arrival)
        self.notes += [f"{arrival.row.tag}: {note}" for note in arrival.notes]
        if arrival.is_new:
            self.adopted.append(str(arrival.row.tag))
            self.logical_bytes += arrival.row.size
        else:
            self.present.append(str(arrival.row.tag))

    def _remove(self, source: Source, arrival: Arrival) -> None:
        """Remove, from another tree, a directory that has been adopted or holds only what is saved."""
        if not arrival.is_new:
            secure(self.workspace, arrival.row)
            check_as_found(source)
            remove_source(source)
        if source.descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                if is_unchanged(os.lstat(source.descriptor), source.descriptor_status):
                    files.remove_file(source.descriptor)
        files.remove_empty_directory(source.root)

    def _is_remains(self, tag: Tag, source: Source) -> bool:
        """Whether a directory is what an interrupted move has left of a saved version: empty directories."""
        is_bare = not source.files and not source.links and source.descriptor is None
        is_moved = self.move and not self.is_in_tree(source.root)
        return is_bare and is_moved and self.workspace.catalog.versions.find(tag) is not None

    def preview(self, found: Sequence[Adoptable]) -> list[Adoptable]:
        """The directories that would be adopted; for the others the reason is recorded. Changes nothing."""
        return [each for each in found if not self._is_refused(each)]

    def _is_refused(self, each: Adoptable) -> bool:
        row = self.workspace.catalog.versions.find(each.tag)
        try:
            source = find_source(each.path)
            described = describe_source(source, each.tag)
            self.notes += [f"{each.tag}: {note}" for note in described.notes]
            difference = None if row is None else comparing.difference(self.workspace, row, source, described)
        except CasstoreError as error:
            if isinstance(error, StoreError):
                raise
            self.refuse(each.path, str(error))
            return True
        except OSError as error:
            self.refuse(each.path, f"{error.filename}: {error.strerror}")
            return True
        if difference is not None:
            self.conflicts.append(each.path)
            self.refuse(each.path, f"another {each.tag} is saved already ({difference})")
        return difference is not None


def adopt(workspace: Workspace, directory: Path, *, move: bool, durable: bool, progress: Progress) -> AdoptReport:
    """Make a version of each directory `name/version` in `directory`, or in `models/` there.

    With `move` the files are taken over if possible, and removed from `directory`. In the store's own tree they always
    are taken over, and from then on every version keeps its directory (the setting `materialize`), unless set
    otherwise. Raises InvalidSource if there is no such directory; OSError. What has been adopted by then stays.
    """
    workspace.check_writable()
    workspace.make_missing(models=True)
    with adopting(workspace):
        return _adopt(workspace, directory, move=move, durable=durable, progress=progress)


@contextlib.contextmanager
def adopting(workspace: Workspace) -> Iterator[None]:
    """Allow only one adoption at a time in the store, for a `with` block: others wait. Raises StoreLocked."""
    with Lock(workspace.layout.locks / ".adopt.lock") as lock:
        lock.acquire("the adoption of directories", timeout_s=_TIMEOUT_S)
        yield


def _adopt(workspace: Workspace, directory: Path, *, move: bool, durable: bool, progress: Progress) -> AdoptReport:
    layout = workspace.layout
    root = directory / "models" if (directory / "models").is_dir() else directory
    if not root.is_dir():
        raise InvalidSource(f"{directory} is not a directory")
    in_place = os.path.samefile(root, layout.models)
    if in_place:
        root = layout.models
        finish_saves(workspace, unfinished_saves(workspace))
    elif layout.home.resolve() in [root.resolve(), *root.resolve().parents]:
        raise InvalidSource(f"{directory} is a working part of the store {layout.home}; adopt another directory")
    adoption = Adoption(workspace, durable, move or in_place, progress)
    if not in_place:
        if is_home(directory):
            raise InvalidSource(
                f"{directory} is a store of casstore's own; carry its versions over with `casstore export` and `import`"
            )
        check_part(layout, root, take=move)
    tree = survey(root)
    paths = foreign_among(workspace, tree.versions) if in_place else tree.versions
    if not paths and tree.strays and not in_place:
        raise InvalidSource(
            f"{root} holds no directories NAME/VERSION; check the path, or save it with `casstore save NAME {root}`"
        )
    note_tree(adoption, tree)
    latest = _latest(root, tree)
    found = adoption.find(paths)
    if in_place and found and not workspace.catalog.is_set("materialize"):
        # Set first, or gc might remove directories if this is interrupted.
        workspace.catalog.set_setting("materialize", "all")
    stored_before = workspace.catalog.usage.of_store().stored_bytes
    adoption.take_all(found)
    if move and not in_place:
        _remove_empty_names(tree.names)
    _note_latest(adoption, latest)
    return AdoptReport(
        tuple(adoption.adopted), tuple(adoption.present), tuple(adoption.refused), tuple(adoption.notes),
        adoption.logical_bytes, max(0, workspace.catalog.usage.of_store().stored_bytes - stored_before),
    )  # fmt: skip


def _being_written(path: Path) -> str:
    return f"{path} is being written to; try again when it is complete"


def note_tree(adoption: Adoption, tree: ModelTree) -> None:
    """Record what cannot be adopted, and what is not a version."""
    adoption.notes += tree.strays
    for path, reason in tree.unreadable:
        adoption.refuse(path, reason)


def describe_source(source: Source, tag: Tag) -> Descriptor:
    """The descriptor in the `model.yaml` of a directory; if there is none, one derived from its files.

    If the name of the directory differs from the descriptor's tag, the directory is right. Raises InvalidSource.
    """
    path = source.root
    notes: list[str] = []
    if (path.parent.name, path.name) != (tag.name, tag.version):
        notes.append(f"it stands as {path.parent.name}/{path.name}, and is kept as {tag}")
    if source.descriptor is not None:
        described = model_yaml.load(source.descriptor)
        if described.tag != tag:
            notes.append(f"its model.yaml calls it {described.tag}; it stands, and is kept, as {tag}")
        if described.signatures:
            names = ", ".join(described.signatures)
            notes.append(f"its signatures ({names}) are kept as files of it; import the directory to keep them as such")
        return replace(described, tag=tag, notes=(*described.notes, *notes))
    if not source.files:
        raise InvalidSource(f"{path} holds no files; remove it")
    description = Description(context={"bentoml_version": "", "python_version": ""}).checked()
    newest_ns = min(time.time_ns(), max(file.status.st_mtime_ns for file in source.files))
    return Descriptor(tag, description, newest_ns, tuple(notes))


def _latest(root: Path, tree: ModelTree) -> dict[str, str]:
    """The version in the `latest` file of each name, before anything is adopted."""
    found = {}
    for name in {path.parent.name for path in tree.versions}:
        with contextlib.suppress(OSError):
            found[name] = files.read_file(root / name / LATEST_NAME, 200).decode(errors="replace").strip()
    return found


def _note_latest(adoption: Adoption, latest: dict[str, str]) -> None:
    """Record the names of which another version is the latest now."""
    for name, version in sorted(latest.items()):
        newest = adoption.workspace.catalog.versions.newest(name)
        if newest is not None and newest.version != version:
            adoption.notes.append(
                f"{name}: `latest` was {version!r}; here it is {newest.version}, the newest by its creation time"
            )


def _remove_empty_names(directories: Iterable[Path]) -> None:
    """Remove the directories of names among these that are empty, or in which only `latest` is left."""
    for directory in directories:
        with contextlib.suppress(OSError):
            if os.listdir(directory) in ([], [LATEST_NAME]):
                files.remove_file(directory / LATEST_NAME)
                files.remove_empty_directory(directory)


class _Hashing:
    """Shows the progress of many saves as one. Only the bytes that each hashes count."""

    def __init__(self, whole: Progress) -> None:
        self._whole = whole
        self._counts = False
        self.done_bytes = 0

    def start(self, step: str, total_bytes: int | None) -> None:  # noqa: ARG002 - as Progress has it
        self._counts = step == "hash"

    def advance(self, done_bytes: int) -> None:
        if self._counts:
            self.done_bytes += done_bytes
            self._whole.advance(done_bytes)

    def finish(self) -> None:
        self._counts = False
