"""Taking over models that stand as directories: a BentoML home, or any directory of `name/version/`.

One version after the other, oldest first, each atomically: who is cut short runs it again, and what is there already
is only compared. Into the store's own tree the files are taken over as they stand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from casstore.actions import model_yaml
from casstore.actions.descriptor import describe
from casstore.actions.importing import Arrival, Wishes, take_in
from casstore.actions.materialize import materialize
from casstore.actions.model_yaml import Descriptor
from casstore.actions.save import check_as_found, remove_source
from casstore.actions.source import Source, find_source
from casstore.actions.workspace import Workspace
from casstore.errors import CasstoreError, InvalidSource, InvalidTag, StoreError
from casstore.progress import SILENT, Progress
from casstore.storage import files
from casstore.storage.layout import LATEST_NAME
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class Refused:
    """A directory that was left as it is, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdoptReport:
    """What `adopt` did.

    `adopted`: tags of versions that are new in the store; `present`: of those that were there already, the very same.
    `refused`: directories that were left alone. `notes`: what could not be kept as it stood.
    `logical_bytes`: of the adopted versions' files. `added_bytes`: what the store's own files have grown by.
    """

    adopted: tuple[str, ...]
    present: tuple[str, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]
    logical_bytes: int
    added_bytes: int

    @property
    def shared_bytes(self) -> int:
        """What plain copies would have taken and the store does not."""
        return max(0, self.logical_bytes - self.added_bytes)


@dataclass(frozen=True, slots=True)
class _Found:
    """A directory that is to become a version."""

    path: Path
    described: Descriptor
    source: Source


@dataclass(slots=True)
class Adoption:
    """Adopts directories one by one, and keeps account."""

    workspace: Workspace
    durable: bool
    progress: Progress
    adopted: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    logical_bytes: int = 0

    def find(self, paths: Sequence[Path]) -> list[_Found]:
        """What the directories `.../name/version` hold, oldest first; those that cannot be adopted are refused."""
        found = []
        for path in paths:
            try:
                found.append(_look_at(path))
            except (InvalidSource, InvalidTag) as error:
                self.refused.append(Refused(str(path), str(error)))
        return sorted(found, key=lambda each: (each.described.created_at_ns, each.described.tag))

    def take(self, each: _Found, *, move: bool, materialize: bool) -> None:
        """Adopt one. Raises OSError, StoreError; other errors are noted as refusals."""
        # What stands here is the user's own, who would unpickle it as well from where it stands.
        wishes = Wishes(each.described.tag, trust=True, durable=self.durable, materialize=materialize)
        try:
            with self.workspace.session() as session:
                draft = session.new_path()
                files.make_directory(draft)
                arrival = take_in(
                    self.workspace, session, draft, each.source, each.described, wishes,
                    take=move, progress=_Hashing(self.progress),
                )  # fmt: skip
                if not arrival.is_new and move:
                    self._drop(each, arrival, session.new_path())
        except CasstoreError as error:
            if isinstance(error, StoreError):
                raise
            self.refused.append(Refused(str(each.path), str(error)))
            return
        if move and each.path.parent.parent != self.workspace.layout.models:
            _remove_descriptor(each)
        self.notes += [f"{arrival.row.tag}: {note}" for note in arrival.notes]
        if arrival.is_new:
            self.adopted.append(str(arrival.row.tag))
            self.logical_bytes += arrival.row.size
        else:
            self.present.append(str(arrival.row.tag))

    def _drop(self, each: _Found, arrival: Arrival, aside: Path) -> None:
        """Take away a directory whose version is saved already: it was compared, byte by byte."""
        target = self.workspace.layout.model(arrival.row.tag)
        if not (os.path.lexists(target) and os.path.samefile(target, each.path)):
            remove_source(each.source)
            return
        with self.workspace.name_lock(arrival.row.name):
            check_as_found(each.source)
            files.rename(target, aside)
        materialize(self.workspace, arrival.row, SILENT)


def adopt(workspace: Workspace, directory: Path, *, move: bool, durable: bool, progress: Progress) -> AdoptReport:
    """Make a version of each directory `name/version` in `directory`, or in `models/` there.

    With `move` the files are taken over where they can be, and are gone from `directory`. In the store's own tree they
    always are, and from then on every version keeps its directory (the setting `materialize`), unless set otherwise.
    Raises InvalidSource when there is no such directory, OSError; what has been adopted by then stays.
    """
    root = directory / "models" if (directory / "models").is_dir() else directory
    if not root.is_dir():
        raise InvalidSource(f"{directory} is no directory")
    layout = workspace.layout
    in_place = os.path.samefile(root, layout.models)
    if layout.home.resolve() in [root.resolve(), *root.resolve().parents] and not in_place:
        raise InvalidSource(f"{directory} is a working part of the store {layout.home}; adopt another directory")
    adoption = Adoption(workspace, durable, progress)
    paths = [path for path in version_directories(root) if not (in_place and is_own(workspace, path))]
    if not paths and not in_place:
        raise InvalidSource(
            f"{root} holds no directories NAME/VERSION; check the path, or save it with `casstore save`"
        )
    stored_before = workspace.catalog.usage.of_store().stored_bytes
    run(adoption, paths, move=move or in_place)
    if move and not in_place:
        _remove_empty_names(root)
    if in_place and adoption.adopted and not workspace.catalog.is_set("materialize"):
        workspace.catalog.set_setting("materialize", "all")
    return AdoptReport(
        tuple(adoption.adopted), tuple(adoption.present), tuple(adoption.refused), tuple(adoption.notes),
        adoption.logical_bytes, workspace.catalog.usage.of_store().stored_bytes - stored_before,
    )  # fmt: skip


def run(adoption: Adoption, paths: Sequence[Path], *, move: bool) -> None:
    """Adopt all these directories. Those in the store's tree, and the newest of each name, keep a directory."""
    found = adoption.find(paths)
    keeps_all = adoption.workspace.catalog.setting("materialize") == "all"
    newest = {each.described.tag.name: each.path for each in found}
    adoption.progress.start("adopt", sum(each.source.size for each in found))
    try:
        for each in found:
            is_in_tree = each.path.parent.parent == adoption.workspace.layout.models
            is_newest = newest[each.described.tag.name] == each.path
            adoption.take(each, move=move, materialize=keeps_all or is_in_tree or is_newest)
    finally:
        adoption.progress.finish()


def version_directories(root: Path) -> Iterator[Path]:
    """The directories `name/version` below `root`, sorted; links are none."""
    for name in _directories(root):
        yield from _directories(name)


def is_own(workspace: Workspace, path: Path) -> bool:
    """Whether a directory in the store's tree is one that casstore has made there, or is about to take away."""
    try:
        tag = Tag(path.parent.name, path.name)
        inode = os.lstat(path).st_ino
    except (InvalidTag, OSError):
        return False
    row = workspace.catalog.versions.find(tag)
    recorded = None if row is None else workspace.catalog.directories.find(row.id)
    if recorded is not None and recorded.inode == inode:
        return True
    return workspace.catalog.versions.is_deleted_directory(tag, inode)


def _directories(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))


def _look_at(path: Path) -> _Found:
    source = find_source(path)
    tag = Tag(path.parent.name, path.name)
    if source.descriptor is not None:
        described = model_yaml.load(source.descriptor)
        if described.tag != tag:
            note = f"its model.yaml calls it {described.tag}; it stands, and is kept, as {tag}"
            described = replace(described, tag=tag, notes=(*described.notes, note))
        return _Found(path, described, source)
    if not source.files:
        raise InvalidSource(f"{path} holds no files; remove it")
    description = describe(
        labels={}, metadata={}, module="", api_version="v1", signatures={}, options={},
        context={"bentoml_version": "", "python_version": ""},
    )  # fmt: skip
    newest_ns = max(file.status.st_mtime_ns for file in source.files)
    return _Found(path, Descriptor(tag, description, newest_ns), source)


def _remove_descriptor(each: _Found) -> None:
    """After `move` out of another tree: what it said has been saved with the version."""
    descriptor = each.source.descriptor
    if descriptor is not None and not descriptor.is_symlink():
        files.remove_file(descriptor)
        files.remove_empty_directory(each.path)


def _remove_empty_names(root: Path) -> None:
    """Directories of names in which nothing but `latest` is left."""
    for directory in _directories(root):
        if os.listdir(directory) in ([], [LATEST_NAME]):
            files.remove_file(directory / LATEST_NAME)
            files.remove_empty_directory(directory)


class _Hashing:
    """Progress of many saves as one: what each has hashed counts, what it does with it then does not."""

    def __init__(self, whole: Progress) -> None:
        self._whole = whole
        self._counts = False

    def start(self, step: str, total_bytes: int | None) -> None:  # noqa: ARG002 - as Progress has it
        self._counts = step == "hash"

    def advance(self, done_bytes: int) -> None:
        if self._counts:
            self._whole.advance(done_bytes)

    def finish(self) -> None:
        self._counts = False
