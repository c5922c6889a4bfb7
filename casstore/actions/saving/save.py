"""A save: request -> staged -> planned and stored -> written -> committed -> published, each a value of its own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from casstore.actions.describing import model_yaml
from casstore.actions.saving import comparing, drafts
from casstore.actions.saving.commit import (
    Committing,
    Outcome,
    Stored,
    Target,
    Terms,
    commit_together,
    remove,
    write,
    write_together,
)
from casstore.actions.saving.needed import Needed
from casstore.actions.saving.parentage import parents
from casstore.actions.saving.request import Handling, SaveRequest
from casstore.actions.saving.staging import Staged, Staging
from casstore.actions.saving.storing import Ground, Storing
from casstore.actions.saving.trust import marked
from casstore.actions.saving.unchanged import put
from casstore.actions.sources.homes import check_holds_none, check_source
from casstore.actions.sources.source import Source, SourceFile, check_removable, find_source, remove_source
from casstore.actions.workspace import Workspace
from casstore.catalog.commits import Place
from casstore.catalog.containers import ChunkVanished
from casstore.catalog.events import Noted
from casstore.description import CUSTOM_OBJECTS_NAME
from casstore.digest import Digest
from casstore.errors import InvalidSource, TagExists
from casstore.late_classes import dataclass
from casstore.progress import Progress
from casstore.release import __version__
from casstore.storage import files
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry, Manifest
from casstore.storage.parents import Parent
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session
from casstore.storage.write_back import WriteBack
from casstore.tag import Tag

_log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """The result of a save: how many bytes were new to the store, and the source files that could not be removed."""

    new_bytes: int
    left_behind: tuple[str, ...]


def save(workspace: Workspace, session: Session, draft: Path, request: SaveRequest, progress: Progress) -> Saved:
    """Save files as a version, through the directory `draft`, which is the request's source or empty.

    On any exception, no version is visible and the sources are as they were.
    Raises TagExists, InvalidSource, FileChanged, OSError ...
    """
    source = _checked_source(workspace, request)
    if request.custom_objects is not None:
        _add_custom_objects(source, request.custom_objects, session)
    if _is_same_version(workspace, source, request):
        return _after(workspace, session, source, request, 0)
    if request.handling is Handling.DRAFT and source.links and request.materialize:
        # Links become files of their own in a new draft, to which the files that stand here move.
        draft = session.new_path()
        files.make_directory(draft)
    came_from = parents(workspace, source, request)  # while the files stand where they were found
    target = Target(request.tag, draft if request.materialize else None, request.found, request.standing)
    committing = Committing(workspace, session, target)
    new_bytes = 0
    with WriteBack(workspace.catalog.index.usable_containers) as write_back:
        staging = Staging(workspace, session, draft, request, progress, write_back)
        try:
            saving = _Save(workspace, session, draft, request, came_from, progress, write_back)
            new_bytes = saving.run(source, staging.stage(source), committing)
        except BaseException as error:
            if committing.outcome is not Outcome.COMMITTED:
                staging.undo()
            # Another process may have been faster.
            if not isinstance(error, TagExists) or not _is_same_version(workspace, source, request):
                raise
    return _after(workspace, session, source, request, new_bytes)


def save_together(workspace: Workspace, session: Session, requests: Iterable[tuple[SaveRequest, Progress]]) -> set[Tag]:
    """Save versions of different names that get no directory, in one transaction: all that are saved appear at once.

    Their files are synced together, too. Returns the tags of those that are to be saved by themselves, after these,
    since they need what another brings. On any exception nothing is saved. Raises ChunkVanished, and what `save` does.
    """
    apart: set[Tag] = set()
    stored: list[tuple[Target, Stored, Terms, Callable[[], None]]] = []
    saved: list[tuple[Source, SaveRequest]] = []
    brought: set[Digest] = set()
    try:
        with WriteBack(workspace.catalog.index.usable_containers) as write_back:
            for request, progress in requests:
                source = _checked_source(workspace, request)
                draft = session.new_path()
                later = replace(request, durable=False)  # synced with the others
                came_from = parents(workspace, source, request)
                staged = Staging(workspace, session, draft, later, progress, write_back).stage(source)
                saving = _Save(workspace, session, draft, later, came_from, progress, write_back)
                storing, manifest, wanted = saving.storing(source, staged)
                if not wanted.isdisjoint(brought):
                    apart.add(request.tag)
                    continue
                new = storing.store(manifest, Needed.of(workspace, wanted, staged.found))
                terms = replace(saving.terms, durable=request.durable)
                stored.append((Target(request.tag, None, request.found), new, terms, storing.check_still))
                saved.append((source, request))
                brought.update(chunk.digest for container in new.containers for chunk in container.chunks)
    except BaseException:
        remove(path for _, new, _, _ in stored for path in new.paths)
        raise
    if not stored:
        return apart
    written = write_together(workspace, session, [(new, terms) for _, new, terms, _ in stored])
    commit_together(
        workspace, session,
        [(target, each, look) for (target, _, _, look), each in zip(stored, written, strict=True)],
    )  # fmt: skip
    for source, request in saved:
        _after(workspace, session, source, request, 0)
    return apart


def _checked_source(workspace: Workspace, request: SaveRequest) -> Source:
    """The files to be saved, checked to allow the requested handling. Raises InvalidSource, OSError."""
    root, removes = request.source, request.handling.removes
    if request.handling is Handling.DRAFT:
        source = find_source(root, request.rules)
    else:
        check_source(workspace.layout, root, take=removes)
        source = find_source(root, request.rules) if request.found is None else request.found
        check_holds_none(root, (file.path for file in source.files))
    if removes:
        check_removable(source)
    if source.descriptor is not None and request.created_at_ns is None:  # otherwise it has been read, and is kept
        model_yaml.check_replaceable(source.descriptor)
    if source.files or request.allow_empty:
        return source
    if request.rules is not None and request.rules.left_out:
        raise InvalidSource(
            f"nothing is left of {root} without {request.rules}; give other patterns, or --no-ignore "
            "(in Python: ignore=False)"
        )
    raise InvalidSource(
        f"{root} holds no files; check the path, or ask for an empty version with --allow-empty "
        "(in Python: allow_empty=True)"
    )


def _after(workspace: Workspace, session: Session, source: Source, request: SaveRequest, new_bytes: int) -> Saved:
    """The result of a save. Removes the source files that have been taken, as far as possible."""
    if request.handling.goes_whole:
        return Saved(new_bytes, tuple(drafts.take_away(workspace, session, source, request.tag)))
    return Saved(new_bytes, tuple(remove_source(source)) if request.handling.removes else ())


def _is_same_version(workspace: Workspace, source: Source, new: SaveRequest) -> bool:
    """Whether the very same version is saved already and the request allows that. Raises TagExists for another."""
    row = None if new.said_context is None else workspace.catalog.versions.find(new.tag)
    if row is None:
        return False
    context = {**row.described().context, **(new.said_context or {})}
    described = model_yaml.Descriptor(new.tag, replace(new.description, context=context), row.created_at_ns)
    difference = comparing.difference(workspace, row, source, described)
    if difference is None and new.is_base_said and new.base is not None:
        difference = comparing.difference_of_base(row, new.base)
    if difference is None and new.parents is not None:
        difference = comparing.difference_of_parents(workspace.catalog.parents.of(row.id), new.parents)
    if difference is not None:
        raise TagExists(
            f"another {new.tag} is saved already ({difference}), and saved versions never change; choose another "
            "version"
        )
    return True


def _add_custom_objects(source: Source, pickled: bytes, session: Session) -> None:
    name = CUSTOM_OBJECTS_NAME
    if any(file.path == name for file in source.files):
        raise InvalidSource(f"{source.root} holds a {name} already; give custom_objects or the file, not both")
    disk_path = session.new_path()
    files.write_new_file(disk_path, pickled, 0o600)
    source.files.append(SourceFile(name, str(disk_path), os.stat(disk_path), is_direct=True))
    source.files.sort(key=lambda file: file.path)


@dataclass(frozen=True, slots=True)
class _Save:
    """One save: the state that its steps share."""

    workspace: Workspace
    session: Session
    draft: Path
    request: SaveRequest
    parents: tuple[Parent, ...] | None
    progress: Progress
    write_back: WriteBack

    def run(self, source: Source, staged: Staged, committing: Committing) -> int:
        """Make a version of staged files; returns how many bytes were new to the store."""
        storing, manifest, wanted = self.storing(source, staged)
        needed = Needed.of(self.workspace, wanted, staged.found)
        while True:
            try:
                stored = storing.store(manifest, needed)
                written = write(self.workspace, self.session, stored, self.terms, self.progress, self.write_back)
                committing.run(written, storing.check_still)
                return stored.new_bytes
            except ChunkVanished:
                _log.debug("%s: gc removed chunks that this save relied on; they are stored again", self.request.tag)
                needed = Needed.of(self.workspace, wanted)

    def storing(self, source: Source, staged: Staged) -> tuple[Storing, Manifest, set[Digest]]:
        """What stores staged files, the manifest of the version that they become, and the chunks that it needs."""
        recipes = self.workspace.catalog.index.as_known({file.recipe.blob: file.recipe for file in staged.files})
        staged = staged.by(recipes)
        manifest = self._manifest(source, staged, recipes)
        ground = self._ground(source, manifest)
        storing = Storing(self.workspace, self.session, self.request, staged, ground, self.progress)
        return storing, manifest, {digest for recipe in recipes.values() for digest in recipe.digests}

    @property
    def terms(self) -> Terms:
        place = Place.LAST if self.request.made_at_ns is None else Place.BY_CREATION
        return Terms(self.request.durable, self.request.trust, place, Noted(self.request.kind))

    def _manifest(self, source: Source, staged: Staged, recipes: Mapping[Digest, Recipe]) -> Manifest:
        created_at_ns = self.request.made_at_ns
        manifest = Manifest(
            tag=self.request.tag,
            created_at_ns=time.time_ns() if created_at_ns is None else created_at_ns,
            files=tuple(FileEntry(f.path, f.executable, f.recipe.size, f.recipe.blob) for f in staged.files),
            directories=tuple(source.empty_directories),
            recipes={digest: recipe for digest, recipe in recipes.items() if recipe.is_stored},
            description=self.request.description,
            base=self.request.base,
            parents=self.parents,
            casstore_version=__version__,
        )
        return replace(manifest, description=marked(self.workspace, manifest, self.request.trust, source.root))

    def _ground(self, source: Source, manifest: Manifest) -> Ground:
        """The draft's directory, with a `model.yaml` in it if it is to become the version's."""
        known, paths = None, []
        if source.root == self.draft:
            known = source.directories
            # The target of a link in the draft is read where it stands, and nothing of it stays in the draft.
            paths = [file.path for file in source.files if file.is_direct]
            paths += [f"{path}/" for path in source.empty_directories if not source.links]
        if not self.request.materialize:
            return Ground(self.draft, known, paths)
        temporary = self.session.new_path()
        files.write_new_file(temporary, model_yaml.render(manifest), self.workspace.file_mode(executable=False))
        rendered = os.lstat(temporary)
        put(temporary, f"{self.draft}/{DESCRIPTOR_NAME}", known)
        return Ground(self.draft, known, paths, rendered)
