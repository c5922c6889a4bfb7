"""Importing versions: from an archive, or from a directory that has a `model.yaml`.

They keep their tag, description and creation time, which decides their place among the versions of their name, so that
an old archive does not become the latest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from casstore.actions import resolve, signatures
from casstore.actions.describing import model_yaml
from casstore.actions.describing.model_yaml import Descriptor
from casstore.actions.directories.materialize import materialize
from casstore.actions.exchange import carried
from casstore.actions.exchange.arrivals import Arrival, Wishes
from casstore.actions.exchange.casmodel_import import CasmodelImport
from casstore.actions.exchange.oci_import import Artifact
from casstore.actions.registry.aliases import import_alias
from casstore.actions.saving import comparing
from casstore.actions.saving.request import Handling, SaveRequest
from casstore.actions.saving.save import save
from casstore.actions.saving.trust import Trust, objects_of
from casstore.actions.sources.source import Source, find_source
from casstore.actions.workspace import Workspace
from casstore.archive import casmodel, endpoint, oci
from casstore.archive.endpoint import Endpoint
from casstore.archive.formats import Format
from casstore.archive.limits import Budget
from casstore.archive.unpacking import unpack
from casstore.catalog.containers import ChunkVanished
from casstore.catalog.versions import VersionRow
from casstore.errors import AliasProtected, CasstoreError, InvalidSource, StoreError, TagExists, TagNotFound
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.sessions import Session
from casstore.tag import AliasName, Tag

_TRIES = 3  # attempts, if gc runs during an import and removes chunks that it relied on


@dataclass(frozen=True, slots=True)
class Coming:
    """A directory that is to become a version, as in `described`."""

    source: Source
    described: Descriptor
    handling: Handling

    @property
    def may_be_part(self) -> bool:
        """Whether files of a version that is there already may be missing, as after an interrupted move."""
        return self.handling is Handling.TAKE_WATCHED


def import_archive(
    workspace: Workspace, source: Endpoint, format: Format | None, wishes: Wishes, progress: Progress
) -> list[Arrival]:
    """Import the versions of an archive, or the one version of a directory with a `model.yaml`.

    Raises UnsafeArchive, InvalidSource, TagExists if another version has the tag, OSError. Then nothing is visible.
    """
    name = endpoint.name_of(source)
    path = endpoint.local_path(source)
    with workspace.session() as session:
        draft = session.new_path()
        files.make_directory(draft)
        place = oci.place(source)
        if place is not None:
            if format is not None:
                raise InvalidSource(f"{place} is an OCI layout, which has no other format; leave the format out")
            return [_without_aliases(_import_layout(workspace, session, draft, place, wishes, progress), wishes)]
        if path is not None and (format is Format.FOLDER or path.is_dir()):
            return [_without_aliases(_import_folder(workspace, session, draft, path, wishes, progress), wishes)]
        if format is Format.FOLDER:
            raise InvalidSource(f"{name} is not a directory on this machine")
        with endpoint.reading(source) as (stream, size):
            head, stream = endpoint.peeked(stream, len(casmodel.MAGIC))
            if head == casmodel.MAGIC and format in (None, Format.CASMODEL):
                return _import_casmodel(CasmodelImport(workspace, session, name, wishes, progress), stream, size)
            if format is Format.CASMODEL:
                raise InvalidSource(f"{name} is not a .casmodel; leave the format out, or name the right one")
            progress.start("unpack", size)
            try:
                unpacked = unpack(
                    stream, draft, format=format, will_be_synced=wishes.durable, spool=lambda: _spool(session),
                    budget=Budget(trust=wishes.trust is Trust.GIVEN, advance=progress.advance),
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
        return [
            _without_aliases(_take_draft(Into(workspace, session, draft), described, name, wishes, progress), wishes)
        ]


class Into(NamedTuple):
    """Where a version comes in: a draft in the session that has its files, and may have signatures beside them."""

    workspace: Workspace
    session: Session
    draft: Path


def _take_draft(
    into: Into, described: Descriptor, name: str, wishes: Wishes, progress: Progress,
    check: Callable[[Source], None] = lambda _: None,
) -> Arrival:  # fmt: skip
    """Save what stands in the draft, if it is signed as the store asks and passes the `check`; keep its signatures."""
    admitted = carried.admit(into.workspace, into.draft, described, name, is_our_own=wishes.is_our_own)
    coming = Coming(find_source(into.draft), described, Handling.DRAFT)
    check(coming.source)
    arrival = take_in(*into, coming, wishes, progress)
    return admitted.kept(into.workspace, into.session, arrival)


def _import_casmodel(coming: CasmodelImport, stream: BinaryIO, size: int | None) -> list[Arrival]:
    start = stream.tell() if stream.seekable() else None
    for tries_left in reversed(range(_TRIES)):
        coming.progress.start("import", size)
        try:
            found = coming.run(stream)
            break
        except ChunkVanished as error:
            if start is None or not tries_left:
                raise StoreError(
                    f"gc took away what {coming.name} shares with other versions; import it again"
                ) from error
            stream.seek(start)
        finally:
            coming.progress.finish()
    workspace, wishes = coming.workspace, coming.wishes
    for arrival in found:
        if not arrival.is_new:
            _trust_present(workspace, arrival.row, wishes)
    rows = [arrival.row for arrival in found]
    without = materialize_newest(workspace, rows, coming.progress) if wishes.materialize else {}
    notes = _take_aliases(coming) if wishes.aliases else {}
    if coming.aliases is None:
        found[:1] = [_without_aliases(each, wishes) for each in found[:1]]
    return [
        replace(each, notes=(*each.notes, *without.get(each.row.id, ()), *notes.get(each.row.tag, ())))
        for each in found
    ]


def _take_aliases(coming: CasmodelImport) -> dict[Tag, list[str]]:
    """Move the aliases that came with an archive; returns what could not be done, by tag."""
    notes: dict[Tag, list[str]] = {}
    for tag, alias in coming.aliases or ():
        name = AliasName(tag.name, alias)
        row = coming.workspace.catalog.versions.find(tag)
        try:
            if row is not None:
                import_alias(coming.workspace, name, row, f"imported from {os.path.basename(coming.name)}")
        except (AliasProtected, TagNotFound) as error:
            notes.setdefault(tag, []).append(str(error))
    return notes


def _without_aliases(arrival: Arrival, wishes: Wishes) -> Arrival:
    """The first version that came without a word of aliases, with a note if they were wanted."""
    said = "it came without aliases; `casstore export --aliases` to a .casmodel takes them along"
    return replace(arrival, notes=(*arrival.notes, said)) if wishes.aliases else arrival


def materialize_newest(
    workspace: Workspace, rows: Sequence[VersionRow], progress: Progress
) -> dict[int, tuple[str, ...]]:
    """Make the directories that should stand; returns the errors of those that could not be made, by row id.

    The versions are saved, and `Model.path` will try again, so no error is raised here.
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
    """Whether a version should have a directory before it is first asked for."""
    newest = workspace.catalog.versions.newest(row.name)
    return workspace.catalog.setting("materialize") == "all" or (newest is not None and newest.id == row.id)


def _import_folder(
    workspace: Workspace, session: Session, draft: Path, path: Path, wishes: Wishes, progress: Progress
) -> Arrival:
    source = find_source(path)
    if source.descriptor is None:
        raise InvalidSource(f"{path} has no {DESCRIPTOR_NAME}; save it with `casstore save NAME {path}`")
    described = model_yaml.load(source.descriptor)
    if described.signatures or (not wishes.is_our_own and signatures.required(workspace) is not None):
        # What is checked is what is saved, whatever becomes of the directory meanwhile.
        carried.copy_source(source, draft)
        return _take_draft(Into(workspace, session, draft), described, str(path), wishes, progress)
    return take_in(workspace, session, draft, Coming(source, described, Handling.COPY), wishes, progress)


def _import_layout(
    workspace: Workspace, session: Session, draft: Path, place: oci.Place, wishes: Wishes, progress: Progress
) -> Arrival:
    artifact = Artifact.at(place)
    present = artifact.present(workspace, wishes.tag)
    if present is not None:
        _trust_present(workspace, present, wishes)
        return carried.Admitted.of(artifact.signatures()).kept(workspace, session, Arrival(present, False))
    progress.start("unpack", artifact.size)
    try:
        budget = Budget(trust=wishes.trust is Trust.GIVEN, advance=progress.advance)
        described = artifact.unpack(draft, budget, will_be_synced=wishes.durable, tag=wishes.tag)
    finally:
        progress.finish()
    into = Into(workspace, session, draft)
    arrival = _take_draft(into, described, artifact.name, wishes, progress, artifact.check_whole)
    artifact.note(workspace, arrival.row)
    return arrival


def _spool(session: Session) -> BinaryIO:
    """A file in the session, to hold a piped archive whose format can only be read from its end."""
    path = session.new_path()
    file = open(path, "x+b")  # noqa: SIM115 - whoever asked for it closes it
    files.remove_file(path)
    return file


def take_in(
    workspace: Workspace, session: Session, draft: Path, coming: Coming, wishes: Wishes, progress: Progress
) -> Arrival:
    """Save a version that is being imported, unless the very same version is there already.

    Raises TagExists if another version has the tag, and what `save` raises.
    """
    tag = wishes.tag or coming.described.tag
    present = _present(workspace, tag, coming)
    if present is not None:
        _trust_present(workspace, present.row, wishes)
        return present
    request = request_of(workspace, coming, wishes)
    try:
        save(workspace, session, draft, request, progress)
    except TagExists:
        present = _present(workspace, tag, coming)
        if present is None:
            raise
        _trust_present(workspace, present.row, wishes)
        return present
    row = workspace.catalog.versions.find(tag)
    if row is None:
        raise TagNotFound(f"{tag} was saved, and has been deleted already")
    return Arrival(row, True, coming.described.notes)


def request_of(workspace: Workspace, coming: Coming, wishes: Wishes) -> SaveRequest:
    """The save of a version that is being imported and is not there yet."""
    tag, described = wishes.tag or coming.described.tag, coming.described
    return SaveRequest(
        tag, coming.source.root, coming.handling, described.description, resolve.base(workspace.catalog, tag, None),
        wishes.durable, wishes.materialize, found=coming.source if coming.handling.is_watched else None,
        allow_empty=True, created_at_ns=described.created_at_ns, trust=wishes.trust,
    )  # fmt: skip


def _trust_present(workspace: Workspace, row: VersionRow, wishes: Wishes) -> None:
    """Trust the Python objects of a version that is there already, if that was asked for."""
    objects = objects_of(workspace.catalog.versions.files(row.id))
    if wishes.trust is Trust.GIVEN and objects is not None:
        workspace.catalog.trust.give(objects)


def _present(workspace: Workspace, tag: Tag, coming: Coming) -> Arrival | None:
    """The version of this tag, if it is the one to import; None if there is none. Raises TagExists for another."""
    row = workspace.catalog.versions.find(tag)
    if row is None:
        return None
    difference = comparing.difference(workspace, row, coming.source, coming.described, may_be_part=coming.may_be_part)
    if difference is not None:
        raise TagExists(
            f"another {tag} is saved already ({difference}), and saved versions never change; "
            "import it as another version with --as NAME:VERSION (in Python: as_tag=...)"
        )
    return Arrival(row, False, coming.described.notes)
