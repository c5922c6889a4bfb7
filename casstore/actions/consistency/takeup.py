"""What versions need and the store does not have where the catalog says; and the files, unknown to the catalog, that
hold it all the same, as where catalog and files were copied at different moments. Those are taken up as they stand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path

from casstore.actions.consistency.deleted import kept_manifests
from casstore.actions.consistency.sizes import what_is_wrong
from casstore.actions.consistency.strays import file_id, place_of, quarantined_files, unnamed_files
from casstore.actions.workspace import Workspace
from casstore.catalog.marks import Marks
from casstore.catalog.versions import NewChunk, NewContainer
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.late_classes import dataclass
from casstore.storage import chunking, descriptors, files, pack
from casstore.storage.container import MAX_DELTA_LINKS, Container, FileStamp, Kind, Location
from casstore.storage.layout import Layout
from casstore.storage.objects import Objects
from casstore.storage.recipe import Recipe


@dataclass(slots=True)
class Missing:
    """What marked chunks need and stat does not find. `files`: containers, with what is wrong with each. `containers`:
    these, by the marked chunks whose rows name them. `unplaced`: marked chunks that have no row."""

    files: dict[Container, str] = field(default_factory=dict)
    containers: dict[Digest, Container] = field(default_factory=dict)
    unplaced: set[Digest] = field(default_factory=set)

    @property
    def chunks(self) -> set[Digest]:
        return self.containers.keys() | self.unplaced


def find_missing(workspace: Workspace, marks: Marks) -> Missing:
    """Look at every container that a marked chunk's row names, by one stat each. Raises OSError where stat cannot
    tell."""
    found = Missing(unplaced=set(marks.unplaced()))
    for container, size in marks.needed_containers():
        reason = what_is_wrong(container.path(workspace.layout), size)
        if reason:
            found.files[container] = reason
            found.containers.update(dict.fromkeys(marks.needed_in(container), container))
    return found


def holders(workspace: Workspace, wanted: Collection[Digest], *, thorough: bool = False) -> list[Path]:
    """The files that hold some of these chunks and that the catalog does not know, by what packs say of themselves and
    by the names of loose files; with `thorough` also by what the loose files of unknown blobs hold."""
    candidates = [*unnamed_files(workspace), *quarantined_files(workspace.layout)]
    recipes = _recipes_for(workspace, candidates)
    return [path for path in candidates if any(_chunks_in(path, wanted, recipes, thorough=thorough))]


def _recipes_for(workspace: Workspace, paths: Iterable[Path]) -> dict[Digest, Recipe]:
    """The recipes of the blobs that the names of loose files tell."""
    blobs = {blob for path in paths if (blob := _blob(path)) is not None}
    of_deleted = {
        blob: recipe
        for _, manifest in kept_manifests(workspace.layout)
        for blob, recipe in manifest.recipes.items()
        if blob in blobs
    }
    return of_deleted | workspace.catalog.index.recipes(blobs)


def _blob(path: Path) -> Digest | None:
    try:
        return None if _kind(path) is Kind.PACK else Digest.parse(path.stem)
    except ValueError:
        return None


def _kind(path: Path) -> Kind:
    return Kind.PACK if path.suffix == ".pack" else Kind.LOOSE


def _chunks_in(
    path: Path, wanted: Collection[Digest], recipes: Mapping[Digest, Recipe], *, thorough: bool
) -> Iterator[NewChunk]:
    """The wanted chunks that a file seems to hold, and where."""
    blob = _blob(path)
    try:
        if _kind(path) is Kind.PACK:
            for e in pack.read_entries(path):
                if e.digest in wanted:
                    yield NewChunk(e.digest, e.offset, e.length, e.raw_bytes, e.encoding, e.base, e.grouping)
        elif blob is not None:
            recipe = recipes.get(blob)
            if recipe is None and thorough and blob not in wanted:
                recipe = _scanned(path)
            for chunk in (recipe or Recipe.of_one_chunk(blob, path.stat().st_size)).chunks():
                if chunk.digest in wanted:
                    yield NewChunk(chunk.digest, chunk.offset, chunk.length, chunk.length)
    except (IntegrityError, OSError, EOFError) as error:
        files.raise_unless_damage(error)


def _scanned(path: Path) -> Recipe:
    with descriptors.opened(path, os.O_RDONLY) as descriptor:
        return chunking.scan_file(descriptor)


def bring_back(layout: Layout, wanted: Collection[Digest], recipes: Mapping[Digest, Recipe]) -> list[Path]:
    """Move the strays in quarantine that hold some of these chunks back to where they stood; returns where."""
    brought = []
    for path in quarantined_files(layout):
        place = place_of(layout, path)
        if place is not None and not place.exists() and any(_chunks_in(path, wanted, recipes, thorough=True)):
            files.rename(path, place)
            brought.append(place)
            files.remove_empty_directory(path.parent)
    for parent in sorted({path.parent for path in brought}):
        files.sync_directory(parent)
    return brought


@dataclass(frozen=True, slots=True)
class TakenUp:
    """`paths`: files that were taken up, or put back where the catalog knows them. `chunks`: those whose containers
    they are."""

    paths: tuple[Path, ...] = ()
    chunks: frozenset[Digest] = frozenset()


def take_up(workspace: Workspace) -> TakenUp:
    """Make the files that hold what versions need, and that the catalog does not know, known to it.

    Every chunk is read and checked first, and no byte is copied. gc's lock must be held. Raises OSError.
    """
    with workspace.catalog.references.marked() as marks:
        return _take_up(workspace, marks)


def _take_up(workspace: Workspace, marks: Marks) -> TakenUp:
    missing = find_missing(workspace, marks)
    if not missing.chunks:
        return TakenUp()
    brought = bring_back(workspace.layout, missing.chunks, _recipes_for(workspace, quarantined_files(workspace.layout)))
    workspace.objects.close()
    again = find_missing(workspace, marks) if brought else missing
    taken = _TakeUp(workspace, again).run() if again.chunks else TakenUp()
    known = missing.chunks - again.chunks
    named = workspace.catalog.index.named({file_id(path) for path in brought})
    put_back = [path for path in brought if file_id(path) in named and path not in taken.paths]
    return TakenUp((*put_back, *taken.paths), taken.chunks | known)


class _TakeUp:
    """Chooses containers as the rebuilding of a catalog does: whole chunks before deltas, and these only after what
    they need."""

    def __init__(self, workspace: Workspace, missing: Missing) -> None:
        self._workspace = workspace
        self._lost_in = {digest: container.id for digest, container in missing.containers.items()}
        self._wanted = set(missing.chunks)
        self._locations: dict[Digest, Location] = {}
        self._depths: dict[Digest, int] = {}
        self._chosen: list[tuple[str, NewChunk]] = []
        self._objects = Objects(workspace.layout, self._locate)

    def run(self) -> TakenUp:
        candidates = list(unnamed_files(self._workspace))
        held = self._held(candidates)
        try:
            for depth in range(MAX_DELTA_LINKS + 1):
                for path, chunks in held.items():
                    for chunk in chunks:
                        if chunk.digest not in self._depths and self._depth(chunk) == depth:
                            self._consider(path, chunk, depth)
        finally:
            self._objects.close()
        return self._commit([path for path in held if file_id(path) in {each for each, _ in self._chosen}])

    def _held(self, candidates: Sequence[Path]) -> dict[Path, list[NewChunk]]:
        """What each file holds of what is wanted, and of what deltas among it need and has no row either."""
        count = Counter(map(file_id, candidates))
        candidates = [path for path in candidates if count[file_id(path)] == 1]  # a row names one file
        recipes = _recipes_for(self._workspace, candidates)
        while True:
            held = {path: list(_chunks_in(path, self._wanted, recipes, thorough=True)) for path in candidates}
            needed = {
                digest
                for chunks in held.values()
                for chunk in chunks
                for digest in (chunk.base, chunk.grouping)
                if digest is not None
            } - self._wanted
            lacking = needed - self._workspace.catalog.index.locate(needed).keys()
            if not lacking:
                return held
            self._wanted |= lacking

    def _depth(self, chunk: NewChunk) -> int | None:
        """How many links its chain would have; None as long as its base or grouping has no container."""
        if chunk.base is None:
            return 0
        base, grouping = self._depth_of(chunk.base), self._depth_of(chunk.grouping or chunk.base)
        return base + 1 if base is not None and grouping == 0 else None

    def _depth_of(self, digest: Digest) -> int | None:
        if digest in self._wanted:
            return self._depths.get(digest)
        link = self._workspace.catalog.index.chains([digest]).get(digest)
        return None if link is None else link.depth

    def _consider(self, path: Path, chunk: NewChunk, depth: int) -> None:
        container = Container(0, file_id(path), _kind(path), _blob(path))
        self._locations[chunk.digest] = Location(
            container, chunk.offset, chunk.length, chunk.raw_bytes, chunk.encoding, chunk.base, chunk.grouping
        )
        try:
            self._objects.read_chunk(chunk.digest)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            del self._locations[chunk.digest]
            return
        self._depths[chunk.digest] = depth
        self._chosen.append((container.file_id, chunk._replace(generation=depth)))

    def _locate(self, digests: Collection[Digest]) -> Mapping[Digest, Location]:
        known = self._workspace.catalog.index.locate([digest for digest in digests if digest not in self._wanted])
        return {**known, **{digest: self._locations[digest] for digest in digests if digest in self._locations}}

    def _commit(self, paths: Sequence[Path]) -> TakenUp:
        if not paths:
            return TakenUp()
        for path in paths:
            files.sync_file(path)
        for parent in sorted({path.parent for path in paths}):
            files.sync_directory(parent)
        taken = self._workspace.catalog.mending.take_up(list(map(_container, paths)), self._chosen, self._lost_in)
        self._workspace.objects.close()
        return TakenUp(tuple(paths), frozenset(taken))


def _container(path: Path) -> NewContainer:
    """A file's row. The stamp is no file's: a loose file is compared with its digest before it is linked to."""
    status, kind = path.stat(), _kind(path)
    if kind is Kind.PACK:
        return NewContainer(file_id(path), kind, None, False, status.st_size, True, None, ())
    stamp, executable = FileStamp(0, status.st_size, 0), files.is_executable(status)
    return NewContainer(file_id(path), kind, _blob(path), executable, status.st_size, True, stamp, ())
