"""Versions from elsewhere: out of an archive, or from a directory that has a `model.yaml`.

They keep the tag, description and creation time that they come with, and take their place among the versions of their
name by that time, so that an old archive does not become the latest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from casstore.actions import resolve
from casstore.actions.describing import model_yaml
from casstore.actions.describing.model_yaml import Descriptor
from casstore.actions.directories.materialize import materialize
from casstore.actions.exchange.casmodel_import import import_versions
from casstore.actions.saving import comparing
from casstore.actions.saving.save import NewVersion, save
from casstore.actions.saving.trust import Trust, objects_of
from casstore.actions.sources.source import Source, find_source
from casstore.actions.workspace import Workspace
from casstore.archive import casmodel, location
from casstore.archive.formats import Format
from casstore.archive.location import Location
from casstore.archive.unpacking import unpack
from casstore.catalog.versions import ChunkVanished, VersionRow
from casstore.errors import CasstoreError, InvalidSource, StoreError, TagExists, TagNotFound
from casstore.progress import Progress
from casstore.release import __version__
from casstore.storage import files
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.sessions import Session
from casstore.tag import Tag

_TRIES = 3  # where gc runs beside an import and takes what it counted on


@dataclass(frozen=True, slots=True)
class Arrival:
    """A version that was to come in. `is_new`: false when the very same was saved already."""

    row: VersionRow
    is_new: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wishes:
    """How versions are to be taken in. `tag`: instead of the one they come with. `trust`, if given: the archive's
    author is believed: it may expand a lot, and its Python objects may be unpickled."""

    tag: Tag | None
    trust: Trust
    durable: bool
    materialize: bool


def import_archive(
    workspace: Workspace, source: Location, format: Format | None, wishes: Wishes, progress: Progress
) -> list[Arrival]:
    """Import the versions of an archive, or the one of a directory with a `model.yaml`.

    Raises UnsafeArchive, InvalidSource, TagExists where another version has the tag, OSError. Nothing is visible then.
    """
    name = location.name_of(source)
    path = location.local_path(source)
    with workspace.session() as session:
        draft = session.new_path()
        files.make_directory(draft)
        if path is not None and (format is Format.FOLDER or path.is_dir()):
            return [_import_folder(workspace, session, draft, path, wishes, progress)]
        if format is Format.FOLDER:
            raise InvalidSource(f"{name} is not a directory on this machine")
        with location.reading(source) as (stream, size):
            head, stream = location.peeked(stream, len(casmodel.MAGIC))
            if head == casmodel.MAGIC and format in (None, Format.CASMODEL):
                return _import_casmodel(workspace, session, stream, name, size, wishes, progress)
            if format is Format.CASMODEL:
                raise InvalidSource(f"{name} is no .casmodel; leave the format out, or name the right one")
            progress.start("unpack", size)
            try:
                unpacked = unpack(
                    stream, draft, format=format, trust=wishes.trust is Trust.GIVEN, will_be_synced=wishes.durable,
                    advance=progress.advance, spool=lambda: _spool(session),
                )  # fmt: skip
            except InvalidSource as error:
                raise type(error)(f"{name}: {error}") from error
            finally:
                progress.finish()
        if unpacked.descriptor is None:
            raise InvalidSource(
                f"{name} has no {DESCRIPTOR_NAME} at its top, so it holds no exported model; "
                "unpack it, and save what it holds with `casstore save NAME DIRECTORY`"
            )
        described = model_yaml.read(unpacked.descriptor, f"{DESCRIPTOR_NAME} in {name}")
        source_files = find_source(draft)
        return [take_in(workspace, session, draft, source_files, described, wishes, take=True, progress=progress)]


def _import_casmodel(
    workspace: Workspace, session: Session, stream: BinaryIO, name: str, size: int | None, wishes: Wishes,
    progress: Progress,
) -> list[Arrival]:  # fmt: skip
    start = stream.tell() if stream.seekable() else None
    done: set[Tag] = set()
    for tries_left in reversed(range(_TRIES)):
        progress.start("import", size)
        try:
            found = import_versions(
                workspace, session, stream, name,
                tag=wishes.tag, trust=wishes.trust, durable=wishes.durable, done=done, progress=progress,
            )  # fmt: skip
            break
        except ChunkVanished as error:
            if start is None or not tries_left:
                raise StoreError(f"gc took away what {name} shares with other versions; import it again") from error
            stream.seek(start)
        finally:
            progress.finish()
    for row, is_new in found:
        if not is_new:
            _trust_present(workspace, row, wishes)
    without = _materialize(workspace, [row for row, _ in found], progress) if wishes.materialize else {}
    return [Arrival(row, is_new, without.get(row.id, ())) for row, is_new in found]


def _materialize(workspace: Workspace, rows: Sequence[VersionRow], progress: Progress) -> dict[int, tuple[str, ...]]:
    """Make the directories that should stand; returns which could not be made, by row id, in words.

    The versions are saved, and `Model.path` will try again, so that nothing here is an error.
    """
    notes: dict[int, tuple[str, ...]] = {}
    for row in rows:
        if _keeps_directory(workspace, row):
            try:
                materialize(workspace, row, progress)
            except (OSError, CasstoreError) as error:
                notes[row.id] = (f"{row.tag} is saved, but its directory could not be made: {error}",)
    return notes


def _keeps_directory(workspace: Workspace, row: VersionRow) -> bool:
    """Whether a version should have a directory though nobody has asked for it."""
    newest = workspace.catalog.versions.newest(row.name)
    return workspace.catalog.setting("materialize") == "all" or (newest is not None and newest.id == row.id)


def _import_folder(
    workspace: Workspace, session: Session, draft: Path, path: Path, wishes: Wishes, progress: Progress
) -> Arrival:
    source = find_source(path)
    if source.descriptor is None:
        raise InvalidSource(f"{path} has no {DESCRIPTOR_NAME}; save it with `casstore save NAME {path}`")
    described = model_yaml.load(source.descriptor)
    return take_in(workspace, session, draft, source, described, wishes, take=False, progress=progress)


def _spool(session: Session) -> BinaryIO:
    """A file of the session's, for an archive from a pipe that can only be read from its end."""
    path = session.new_path()
    file = open(path, "x+b")  # noqa: SIM115 - whoever asked for it closes it
    files.remove_file(path)
    return file


def take_in(
    workspace: Workspace, session: Session, draft: Path, source: Source, described: Descriptor, wishes: Wishes,
    *, take: bool, progress: Progress, is_others: bool = False, may_be_part: bool = False,
) -> Arrival:  # fmt: skip
    """Save the files of `source` as the version that `described` says, unless that very version is there already.

    `take` as in `save`. `is_others`: somebody may be working on the files, so they have to be as `source` says until
    the commit. `may_be_part`: some files of a version that is there already may be gone from `source`.
    Raises TagExists where another version has the tag, and what `save` raises.
    """
    tag = wishes.tag or described.tag
    present = _present(workspace, tag, source, described, may_be_part)
    if present is not None:
        _trust_present(workspace, present.row, wishes)
        return present
    base = resolve.base(workspace.catalog, tag, None)
    new = NewVersion(
        tag, described.description, base, wishes.durable, wishes.materialize, __version__,
        created_at_ns=described.created_at_ns, trust=wishes.trust,
    )  # fmt: skip
    try:
        save(
            workspace, session, draft, source.root, new,
            take=take, allow_empty=True, custom_objects=None, progress=progress,
            found=source if is_others else None,
        )  # fmt: skip
    except TagExists:
        present = _present(workspace, tag, source, described, may_be_part)
        if present is None:
            raise
        _trust_present(workspace, present.row, wishes)
        return present
    row = workspace.catalog.versions.find(tag)
    if row is None:
        raise TagNotFound(f"{tag} was saved, and has been deleted already")
    return Arrival(row, True, described.notes)


def _trust_present(workspace: Workspace, row: VersionRow, wishes: Wishes) -> None:
    """Trust the Python objects of a version that is there already, if that is what is wished."""
    objects = objects_of(workspace.catalog.versions.files(row.id))
    if wishes.trust is Trust.GIVEN and objects is not None:
        workspace.catalog.trust.give(objects)


def _present(
    workspace: Workspace, tag: Tag, source: Source, described: Descriptor, may_be_part: bool
) -> Arrival | None:
    """The version of that tag, if it is this one; None when there is none. Raises TagExists for another."""
    row = workspace.catalog.versions.find(tag)
    if row is None:
        return None
    difference = comparing.difference(workspace, row, source, described, may_be_part=may_be_part)
    if difference is not None:
        raise TagExists(
            f"another {tag} is saved already ({difference}), and saved versions never change; "
            "import it as another version with --as NAME:VERSION (in Python: as_tag=...)"
        )
    return Arrival(row, False, described.notes)
