"""Rebuilding the catalog from what stands beside it: packs and manifests describe themselves, loose files are named
by their digest. Annotations are in logs.

The old catalog is not read. What only it knew is lost: settings, pins, events, when versions were last opened, and,
where clocks were wrong, in which order versions of one name were committed; they are ordered by the times of their
making.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgpack

from casstore.actions import elsewhere_file
from casstore.actions.consistency import alias_log
from casstore.actions.consistency.deleted import kept_ids, kept_manifests
from casstore.actions.consistency.takeup import bring_back
from casstore.actions.health.containers import threads
from casstore.actions.instance import adopt_instance
from casstore.actions.registry import policy_log
from casstore.catalog.boots import NoBoot
from casstore.catalog.catalog import Catalog
from casstore.catalog.schema import SIDE_FILES
from casstore.catalog.versions import DirectoryRow, NewChunk, NewContainer
from casstore.digest import Digest
from casstore.errors import IntegrityError, StoreError, StoreLocked
from casstore.notebook import Shown
from casstore.progress import Progress
from casstore.storage import annotation_log, chunking, files, machine, pack, sessions
from casstore.storage.annotation_log import AnnotationLog, Subject
from casstore.storage.container import MAX_DELTA_LINKS, FileStamp, Kind, Location
from casstore.storage.descriptors import opened
from casstore.storage.layout import DESCRIPTOR_NAME, Layout, is_container_name, is_file_id, new_id
from casstore.storage.locks import Lock
from casstore.storage.manifest import Manifest, read_manifest_file
from casstore.storage.names import as_stored
from casstore.storage.objects import Objects
from casstore.storage.recipe import Chunk, Recipe
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class RebuildReport(Shown):
    """What a new catalog was made from.

    Attributes
    ----------
    tags
        The versions in it.
    containers
        How many packs and loose files were taken in.
    unreadable
        One line for each manifest, pack or loose file that could not be used.
    recovered
        Those of `tags` that are new: of versions found beside others with the same tag, from deletions or saves that
        were cut short.
    deleted
        The tags of the deleted versions in its trash. Their days there count anew.
    lost_aliases
        One line for each alias that was not made, since the version that it meant is gone.
    """

    tags: tuple[str, ...]
    containers: int
    unreadable: tuple[str, ...]
    recovered: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    lost_aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be used, and why; `kept`: where in quarantine/ it has been moved to, if it has."""

    path: Path
    reason: str
    kept: Path | None = None

    def __str__(self) -> str:
        return f"{self.path}{f', now {self.kept}' if self.kept else ''}: {self.reason}"


@dataclass(frozen=True, slots=True)
class _FoundContainer:
    """A container as it stands, and the chunks that can be read from it."""

    new: NewContainer
    chunks: tuple[NewChunk, ...]


def rebuild_catalog(layout: Layout, progress: Progress) -> RebuildReport:
    """Make a new catalog; the old one, if there is any, goes to `quarantine/`.

    Reads every manifest, the indexes of packs, what stands in more than one of them, and every loose file. Nobody else
    may use the store meanwhile.
    Raises StoreLocked where somebody does, StoreError where no store stands, OSError; then the old one is as it was.
    """
    objects = layout.loose.parent
    gone = [directory for directory in (layout.manifests, objects) if not directory.is_dir()]
    if len(gone) == 2:
        raise StoreError(f"{layout.home} holds no store whose catalog could be rebuilt; check --home")
    for directory in gone:
        raise StoreError(f"{directory} is gone, and a catalog is made from what is in it: put it back from a backup")
    for directory in layout.directories():
        files.make_directory(directory)
    in_use = StoreLocked(f"{layout.home} is in use; end the processes that use it, and try again")
    with Lock(layout.gc_lock) as lock, Lock(layout.open_lock) as nobody_else:
        if not lock.try_acquire() or not nobody_else.try_acquire() or sessions.live_ids(layout):
            raise in_use
        return _rebuild(layout, progress)


def _rebuild(layout: Layout, progress: Progress) -> RebuildReport:
    with sessions.Session(layout) as session:
        rebuilt = session.new_path()
        report = _fill(layout, session, rebuilt, progress)
        files.share_file(rebuilt, layout.home)
        files.sync_file(rebuilt)
        _replace(layout, rebuilt)
    return report


def _side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SIDE_FILES]


def _replace(layout: Layout, rebuilt: Path) -> None:
    """Put the new catalog in the old one's place. Cut short, the old one stands, without what was in its log."""
    kept = layout.quarantine / f"{layout.catalog.name}.{new_id()}"
    for path, name in zip((layout.catalog, *_side_files(layout.catalog)), (kept, *_side_files(kept)), strict=True):
        # Not linked: a catalog of two names is not opened, should this be cut short.
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as source, files.create_file(name) as target:
            files.copy_file(source.fileno(), target)
    files.sync_directory(layout.quarantine)
    for path in _side_files(layout.catalog):
        files.remove_file(path)
    files.sync_directory(layout.home)  # a log that came back would be applied to the new catalog
    files.rename(rebuilt, layout.catalog)
    files.sync_directory(layout.home)


def _fill(layout: Layout, session: sessions.Session, path: Path, progress: Progress) -> RebuildReport:
    unreadable: list[Unreadable] = []
    recovered: list[str] = []
    trashed = _trashed(layout, unreadable)  # first: one that is damaged is no reason to leave its other name out
    manifests = _manifests(layout, session, unreadable, recovered)
    told = _recipes(manifest for _, manifest in (*manifests, *trashed.items()))
    of_deleted = _recipes(manifest for _, manifest in kept_manifests(layout))
    found, chooser, chosen = _contents(layout, told, of_deleted, progress, unreadable)
    disputed = {blob: chooser.right_one(recipes) for blob, recipes in told.items() if len(recipes) > 1}
    chooser.close()
    catalog = Catalog(path, machine.boot_id())
    try:
        catalog.restoring.add_containers((each.new, chosen.get(each.new.file_id, ())) for each in found)
        standing = sorted((*manifests, *trashed.items()), key=_age)
        logs = _logs(layout, {manifest.tag.name for _, manifest in standing}, unreadable)
        for manifest_id, manifest in standing:
            known, is_deleted = _by_right_recipes(manifest, disputed), manifest_id in trashed
            directory = None if is_deleted else _directory(layout, manifest)
            said = logs[manifest.tag.name].of(Subject.of(manifest)) if manifest.tag.name in logs else ()
            catalog.restoring.add_version(known, manifest_id, directory, said, is_deleted=is_deleted)
        taken_in = {manifest_id for manifest_id, _ in manifests}
        not_read = {each.path for each in unreadable}
        catalog.restoring.add_tombstones(
            (manifest_id, tag)
            for tag, manifest_id, path in layout.standing_manifests()
            if manifest_id not in taken_in and path not in not_read
        )
        _take_in_policies(layout, catalog, unreadable)
        lost_aliases = _aliases(layout, catalog, unreadable)
        catalog.mending.note_lost(catalog.references.missing_chunks())  # nothing else has been left to look at
        _put_elsewhere(layout, catalog, unreadable)
        adopt_instance(layout, catalog)
        catalog.events.note("catalog rebuilt", versions=len(manifests), unreadable=len(unreadable))
        catalog.tidy()
    finally:
        catalog.close()
    tags = tuple(str(manifest.tag) for _, manifest in manifests)
    deleted = tuple(str(manifest.tag) for manifest in trashed.values())
    return RebuildReport(tags, len(found), tuple(map(str, unreadable)), tuple(recovered), deleted, lost_aliases)


def _put_elsewhere(layout: Layout, catalog: Catalog, unreadable: list[Unreadable]) -> None:
    """Take the names in of versions that only a remote has."""
    try:
        for each in elsewhere_file.read(layout):
            if catalog.versions.find(each.tag) is None:  # its deletion was cut short, or it was pulled again
                catalog.remotes.put_elsewhere(each, lambda _: None)
    except (IntegrityError, OSError) as error:
        files.raise_unless_damage(error)
        advice = "; `casstore list --remote` shows what is there, and `casstore pull` fetches it"
        unreadable.append(Unreadable(layout.elsewhere, f"{error}{advice}"))


def _aliases(layout: Layout, catalog: Catalog, unreadable: list[Unreadable]) -> tuple[str, ...]:
    """Take in what the logs of aliases say; returns one line for each alias whose version is gone."""
    lost = []
    for name in sorted(alias_log.logged_names(layout)):
        path = layout.alias_log(name)
        try:
            found = alias_log.read(layout, name)
        except OSError as error:
            files.raise_unless_damage(error)
            unreadable.append(Unreadable(path, str(error)))
            continue
        if found.damaged:
            reason = f"{found.damaged:,} damaged lines were passed over; `casstore repair` writes it again without them"
            unreadable.append(Unreadable(path, reason))
        lost += [
            f"{name}@{move.alias} was not made: it meant {move.tag}, which is gone"
            for move in catalog.aliases.restore(name, found.moves)
        ]
    return tuple(lost)


def _take_in_policies(layout: Layout, catalog: Catalog, unreadable: list[Unreadable]) -> None:
    """Take in the policies that their log says, or none where it does not say what they are."""
    try:
        told = policy_log.read(layout)
    except OSError as error:
        files.raise_unless_damage(error)
        unreadable.append(Unreadable(layout.policies, f"{error}; set the policies again"))
        return
    if told.policies is None:
        reason = "its last line is damaged, so that policies would be taken in that were changed since; set them again"
        unreadable.append(Unreadable(layout.policies, reason))
    catalog.retention.restore(told.policies or {})


def _logs(layout: Layout, names: Iterable[str], unreadable: list[Unreadable]) -> dict[str, AnnotationLog]:
    """What was said of versions after their saves, by name. Damaged lines are passed over, and left for verify."""
    found = {}
    for name in names:
        path = layout.annotation_log(name)
        try:
            found[name] = annotation_log.read(path)
        except OSError as error:
            files.raise_unless_damage(error)
            unreadable.append(Unreadable(path, f"{error}; annotations in it are lost"))
    return found


def _contents(
    layout: Layout,
    told: Mapping[Digest, list[Recipe]],
    of_deleted: Mapping[Digest, list[Recipe]],
    progress: Progress,
    unreadable: list[Unreadable],
) -> tuple[list[_FoundContainer], _Chooser, dict[str, list[tuple[NewChunk, int]]]]:
    """The containers, and the chunks that are read from each. Strays that an earlier gc has moved to quarantine are
    brought back where they hold what has no other container."""
    # What a deleted version says of a file holds of it as much: other versions may need chunks of that cut.
    cuts = {
        blob: list(dict.fromkeys((*told.get(blob, ()), *of_deleted.get(blob, ()))))
        for blob in told.keys() | of_deleted.keys()
    }
    first = {blob: recipes[0] for blob, recipes in cuts.items() if recipes}
    while True:
        reasons: list[Unreadable] = []
        found = [*_loose_files(layout, cuts, progress, reasons), *_packs(layout, reasons)]
        chooser = _Chooser(layout, found)
        chosen = chooser.choose()
        unreadable += (reason for reason in reasons if reason not in unreadable)
        wanted = {digest for recipes in told.values() for recipe in recipes for digest in recipe.digests}
        wanted |= {need for each in found for c in each.chunks for need in (c.base, c.grouping) if need is not None}
        wanted -= {chunk.digest for each in chosen.values() for chunk, _ in each}
        if not wanted or not bring_back(layout, wanted, first):
            return found, chooser, chosen
        chooser.close()


def _recipes(manifests: Iterable[Manifest]) -> dict[Digest, list[Recipe]]:
    """What manifests say that each blob is made of. More than one answer is a dispute: one may be a lie."""
    told: dict[Digest, list[Recipe]] = {}
    for manifest in manifests:
        for file in manifest.files:
            recipe = manifest.recipe_of(file)
            recipes = told.setdefault(file.digest, [])
            if file.size and recipe not in recipes:
                recipes.append(recipe)
    return told


def _by_right_recipes(manifest: Manifest, disputed: Mapping[Digest, Recipe]) -> Manifest:
    """The manifest with what was found to be right in place of what it says of disputed blobs."""
    if disputed.keys().isdisjoint(file.digest for file in manifest.files):
        return manifest
    recipes = {file.digest: disputed.get(file.digest, manifest.recipe_of(file)) for file in manifest.files}
    return replace(manifest, recipes={blob: recipe for blob, recipe in recipes.items() if recipe.is_stored})


@dataclass(frozen=True, slots=True)
class _Standing:
    """A manifest that could be read. `is_pending`: its save, or a deletion, was cut short."""

    manifest_id: str
    path: Path
    is_pending: bool
    manifest: Manifest

    def is_before(self, other: _Standing) -> bool:
        """Whether this one is the likelier to have been committed last, of two of one tag."""
        if self.is_pending != other.is_pending:
            return other.is_pending
        return self.manifest.created_at_ns > other.manifest.created_at_ns


def _manifests(
    layout: Layout, session: sessions.Session, unreadable: list[Unreadable], recovered: list[str]
) -> list[tuple[str, Manifest]]:
    """Every version's (manifest id, manifest), oldest first.

    What a save left in `.pending` counts too, and so does a second manifest of a tag, under a tag of its own: which of
    them had been committed, or deleted, only the old catalog knew, and a version too many is better than one lost.
    """
    found: dict[Tag, _Standing] = {}
    others: list[_Standing] = []
    for each in _readable(layout, unreadable):
        held = found.setdefault(each.manifest.tag, each)
        if each.is_before(held):
            found[each.manifest.tag] = each
            others.append(held)
        elif each is not held:
            others.append(each)
    for each in others:
        if each.manifest.digest == found[each.manifest.tag].manifest.digest:
            continue  # gc takes it away
        tag = Tag(each.manifest.tag.name, f"{each.manifest.tag.version[:40]}-recovered-{each.manifest_id[:8]}")
        manifest = replace(each.manifest, tag=tag)
        target = layout.manifest(tag, each.manifest_id)
        files.make_directory(target.parent)
        mode = stat.S_IMODE(each.path.stat().st_mode)
        files.write_file(target, manifest.pack(), mode, temporary=session.new_path(), durable=True)
        files.rename(each.path, layout.quarantine / f"{new_id()}.{each.path.name}")
        found[tag] = _Standing(each.manifest_id, target, False, manifest)
        recovered.append(str(tag))
    return sorted(((each.manifest_id, each.manifest) for each in found.values()), key=_age)


def _age(row: tuple[str, Manifest]) -> tuple[int, Tag, str]:
    """By which versions are ordered, oldest first."""
    return row[1].created_at_ns, row[1].tag, row[0]


def _trashed(layout: Layout, unreadable: list[Unreadable]) -> dict[str, Manifest]:
    """The manifests of deleted versions that can be brought back, by id."""
    found = {}
    for manifest_id in layout.trashed_ids():
        path = layout.trashed_manifest(manifest_id)
        try:
            found[manifest_id] = Manifest.unpack(read_manifest_file(path))
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            kept = layout.quarantine / f"{new_id()}.{manifest_id}"
            files.rename(path, kept)
            unreadable.append(Unreadable(path, str(error), kept))
    return found


def _readable(layout: Layout, unreadable: list[Unreadable]) -> Iterator[_Standing]:
    deleted = {*kept_ids(layout), *layout.trashed_ids()}
    standing = [(manifest_id, path, tag) for tag, manifest_id, path in layout.standing_manifests()]
    pending = [(path.name, path, None) for path in layout.pending_manifests.iterdir() if is_file_id(path.name)]
    for manifest_id, path, tag in [*sorted(standing), *sorted(pending)]:
        if manifest_id in deleted:  # a power cut has brought the name back
            continue
        try:
            manifest = Manifest.unpack(read_manifest_file(path))
            if tag not in (None, manifest.tag):
                raise IntegrityError(f"it is that of {manifest.tag}")
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            kept, advice = None, "; put a sound copy in its place, or move it away: gc does not run while it stands"
            if tag is None:  # where gc would take it for something that a crash has left
                kept, advice = layout.quarantine / f"{new_id()}.{manifest_id}", ""
                files.rename(path, kept)
            unreadable.append(Unreadable(path, f"{error}{advice}", kept))
            continue
        yield _Standing(manifest_id, path, tag is None, manifest)


def _packs(layout: Layout, unreadable: list[Unreadable]) -> Iterator[_FoundContainer]:
    for path in sorted(layout.packs.iterdir()):
        if path.suffix != ".pack" or not path.is_file():
            continue
        if not is_container_name(path):
            unreadable.append(Unreadable(path, "it has no name that casstore gives to a pack; it was left alone"))
            continue
        files.sync_file(path)
        try:
            entries = _entries(path)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            # Where gc would take it for something that a crash has left.
            kept = layout.quarantine / f"{new_id()}.{path.name}"
            files.rename(path, kept)
            unreadable.append(Unreadable(path, str(error), kept))
            continue
        chunks = tuple(
            NewChunk(e.digest, e.offset, e.length, e.raw_bytes, e.encoding, e.base, e.grouping) for e in entries
        )
        yield _FoundContainer(
            NewContainer(path.stem, Kind.PACK, None, False, path.stat().st_size, True, None, ()), chunks
        )


def _entries(path: Path) -> list[pack.PackEntry]:
    try:
        return pack.read_entries(path)
    except OSError as error:
        files.raise_unless_damage(error)
        return pack.read_entries(path)  # a disk may read at the second try what it could not at the first


def _loose_files(
    layout: Layout, recipes: Mapping[Digest, list[Recipe]], progress: Progress, unreadable: list[Unreadable]
) -> list[_FoundContainer]:
    """The loose files that some version has, read and compared with their digests."""
    paths = []
    for path in sorted(layout.loose.glob("*/*.*")):
        digest = _digest_of(path)
        if digest is not None and is_container_name(path) and path.is_file():
            paths.append((path, digest, recipes.get(digest, [])))
    progress.start("read", sum(path.stat().st_size for path, *_ in paths))
    try:
        with ThreadPoolExecutor(threads()) as pool:
            found = list(pool.map(lambda each: _loose_file(each[0], each[1], each[2], progress), paths))
    finally:
        progress.finish()
    unreadable += [Unreadable(each.path, each.reason) for each in found if each.reason]
    return [each.found for each in found]


@dataclass(frozen=True, slots=True)
class _Read:
    path: Path
    reason: str
    found: _FoundContainer


def _loose_file(path: Path, blob: Digest, recipes: Sequence[Recipe], progress: Progress) -> _Read:
    """A sound file is one by its stamp from now on; of a damaged one the sound chunks count, and its stamp is none."""
    reason, unread = "", list(recipes)
    chunks: list[Chunk] = []
    with opened(path, os.O_RDONLY) as descriptor:
        status = os.fstat(descriptor)
        files.sync_descriptor(descriptor)
        try:
            scanned = chunking.scan_file(descriptor, progress.advance)
            is_sound = scanned.blob == blob
            if is_sound:
                # What has just been read needs no second look. Of a blob that no version has any more, chunks may be
                # needed all the same.
                unread = [recipe for recipe in recipes if recipe.digests != scanned.digests]
                chunks = list(scanned.chunks()) if len(unread) < len(recipes) or not recipes else []
        except OSError as error:
            files.raise_unless_damage(error)
            is_sound = False
        if not is_sound:
            reason = "it does not match its digest; `casstore repair` heals what it can"
        # By another cut than today's, or by what another program has written.
        told = {chunk for recipe in unread for chunk in recipe.chunks()}
        chunks += [chunk for chunk in sorted(told, key=lambda c: c.offset) if _has_chunk(descriptor, chunk)]
    unique = {c.digest: NewChunk(c.digest, c.offset, c.length, c.length) for c in chunks}
    stamp = FileStamp(0, status.st_size, 0) if reason else FileStamp.of(status)
    new = NewContainer(
        path.suffix[1:], Kind.LOOSE, blob, files.is_executable(status), status.st_size, not reason, stamp, ()
    )
    return _Read(path, reason, _FoundContainer(new, tuple(unique.values())))


def _has_chunk(descriptor: int, chunk: Chunk) -> bool:
    try:
        return Digest.of(os.pread(descriptor, chunk.length, chunk.offset)) == chunk.digest
    except OSError as error:
        files.raise_unless_damage(error)
        return False


def _digest_of(path: Path) -> Digest | None:
    try:
        return Digest.parse(path.stem)
    except ValueError:
        return None


class _Chooser:
    """Chooses one container for each chunk: whole chunks before deltas, and these only after what they need, so that no
    chain is a circle or longer than chains may be.

    Of a chunk that stands more than once the first that reads well is taken, since gc will take the others away. One
    that does not read well is taken where there is no other: what is damaged is for repair to find.
    """

    def __init__(self, layout: Layout, found: Sequence[_FoundContainer]) -> None:
        self.chosen: dict[str, list[tuple[NewChunk, int]]] = {}
        self._found = found
        self._places = Counter(chunk.digest for each in found for chunk in each.chunks)
        self._depths: dict[Digest, int] = {}
        self._locations: dict[Digest, Location] = {}
        self._objects = Objects(layout, self._locate)

    def choose(self) -> dict[str, list[tuple[NewChunk, int]]]:
        """By container, the chunks chosen of it with the links of their chains."""
        for is_last_resort in (False, True):
            for depth in range(MAX_DELTA_LINKS + 1):
                for number, each in enumerate(self._found):
                    for chunk in each.chunks:
                        if chunk.digest not in self._depths and self._depth(chunk) == depth:
                            self._consider(number, each.new, chunk, depth, is_last_resort=is_last_resort)
        return self.chosen

    def close(self) -> None:
        self._objects.close()

    def right_one(self, recipes: Sequence[Recipe]) -> Recipe:
        """The one of these recipes of a blob that gives the blob; the first where none does, since bytes are lost."""
        return next((recipe for recipe in recipes if self._objects.is_sound(recipe)), recipes[0])

    def _depth(self, chunk: NewChunk) -> int | None:
        """How many links its chain has; None as long as its base or grouping has no container."""
        if chunk.base is None:
            return 0
        base = self._depths.get(chunk.base)
        return base + 1 if base is not None and self._depths.get(chunk.grouping or chunk.base) == 0 else None

    def _consider(self, number: int, new: NewContainer, chunk: NewChunk, depth: int, *, is_last_resort: bool) -> None:
        container = new.as_container(number)
        self._locations[chunk.digest] = Location(
            container, chunk.offset, chunk.length, chunk.raw_bytes, chunk.encoding, chunk.base, chunk.grouping
        )
        # What is in a loose file has been read.
        if not is_last_resort and container.is_pack and self._places[chunk.digest] > 1:
            try:
                self._objects.read_chunk(chunk.digest)
            except (IntegrityError, OSError) as error:
                files.raise_unless_damage(error)
                return
        self._depths[chunk.digest] = depth
        generation = depth if chunk.base is not None else chunk.generation
        self.chosen.setdefault(new.file_id, []).append((chunk._replace(generation=generation), depth))

    def _locate(self, digests: Collection[Digest]) -> Mapping[Digest, Location]:
        return {digest: self._locations[digest] for digest in digests if digest in self._locations}


def _directory(layout: Layout, manifest: Manifest) -> DirectoryRow | None:
    """What stands under models/ for the version, to be checked by its bytes before it is used."""
    root = layout.model(manifest.tag)
    if root.is_symlink() or not root.is_dir():
        return None
    entries = []
    executable = {file.path: file.executable for file in manifest.files}
    for path in (*executable, DESCRIPTOR_NAME):
        try:
            status = os.lstat(root / path)
            is_like = files.is_executable(status) == executable.get(path, files.is_executable(status))
            # What is not a file, such as a link to one elsewhere, is made again, like what is not there.
            stamp = FileStamp.of(status) if stat.S_ISREG(status.st_mode) and is_like else FileStamp(0, 0, 0)
        except OSError as error:
            files.raise_unless_damage(error)
            stamp = FileStamp(0, 0, 0)
        entries.append([as_stored(path), *stamp])
    if Counter(entry[1] for entry in entries)[0] == len(entries):
        return None
    return DirectoryRow(root.lstat().st_ino, NoBoot.UNKNOWN, msgpack.packb(entries))
