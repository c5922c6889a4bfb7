"""Rebuilding the catalog from what stands beside it: packs and manifests describe themselves, loose files are named
by their digest.

The old catalog is not read. What only it knew is lost: settings, pins, when versions were last opened, and, where
clocks were wrong, in which order versions of one name were committed; they are ordered by the times of their making.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgpack

from casstore.actions.collect import gc_lock, standing_manifests
from casstore.actions.verify import threads
from casstore.catalog import sessions
from casstore.catalog.catalog import Catalog
from casstore.catalog.connection import SIDE_FILES
from casstore.catalog.versions import DirectoryRow, NewChunk, NewContainer
from casstore.digest import Digest
from casstore.errors import IntegrityError, StoreError, StoreLocked
from casstore.progress import Progress
from casstore.storage import chunking, files, pack
from casstore.storage.container import MAX_LINKS, FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME, Layout, new_id
from casstore.storage.manifest import Manifest
from casstore.storage.recipe import Chunk, Recipe
from casstore.tag import Tag

# Of no boot: what has this one is checked before it is used.
_UNKNOWN_BOOT = ""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a new catalog was made from. `tags`: the versions in it. `unreadable`: one line for each manifest, pack or
    loose file that could not be used; it stays where it is. `containers`: packs and loose files taken in."""

    tags: tuple[str, ...]
    containers: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A container as it stands, and the chunks that can be read from it."""

    new: NewContainer
    chunks: tuple[NewChunk, ...]


def rebuild_catalog(layout: Layout, progress: Progress) -> RebuildReport:
    """Make a new catalog; the old one, if there is any, goes to `quarantine/`.

    Reads every manifest, the indexes of packs, and every loose file. Nobody else may use the store meanwhile.
    Raises StoreLocked where somebody does, StoreError where no store stands, OSError; then the old one is as it was.
    """
    if not (layout.manifests.is_dir() and layout.packs.is_dir()):
        raise StoreError(f"{layout.home} holds no store whose catalog could be rebuilt; check --home")
    for directory in layout.directories():
        files.make_directory(directory)
    lock = gc_lock(layout)
    if not lock.try_acquire() or sessions.live_ids(layout):
        lock.release()
        raise StoreLocked(f"{layout.home} is in use; end the processes that use it, and try again")
    with lock, sessions.Session(layout) as session:
        rebuilt = session.new_path()
        report = _fill(layout, rebuilt, progress)
        files.sync_file(rebuilt)
        _replace(layout, rebuilt)
    return report


def _side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SIDE_FILES]


def _replace(layout: Layout, rebuilt: Path) -> None:
    """Put the new catalog in the old one's place. Cut short, the old one stands, without what was in its log."""
    kept = layout.quarantine / f"{layout.catalog.name}.{new_id()}"
    for path, name in zip((layout.catalog, *_side_files(layout.catalog)), (kept, *_side_files(kept)), strict=True):
        with contextlib.suppress(FileNotFoundError):
            if not files.try_link(path, name):
                with open(path, "rb") as source, files.create_file(name) as target:
                    files.copy_file(source.fileno(), target)
    files.sync_directory(layout.quarantine)
    for path in _side_files(layout.catalog):
        files.remove_file(path)
    files.rename(rebuilt, layout.catalog)
    files.sync_directory(layout.home)


def _fill(layout: Layout, path: Path, progress: Progress) -> RebuildReport:
    unreadable: list[str] = []
    manifests = _manifests(layout, unreadable)
    recipes = {digest: recipe for _, manifest in manifests for digest, recipe in manifest.recipes.items()}
    # A blob of one chunk has no recipe; its chunk is the blob.
    for _, manifest in manifests:
        for file in manifest.files:
            if file.size:
                recipes.setdefault(file.digest, Recipe.of_one_chunk(file.digest, file.size))
    found = [*_packs(layout, unreadable), *_loose_files(layout, recipes, progress, unreadable)]
    homes = _choose_homes(found)
    catalog = Catalog(path, files.boot_id())
    try:
        catalog.restoring.add_containers((each.new, homes.get(each.new.file_id, ())) for each in found)
        for manifest_id, manifest in manifests:
            catalog.restoring.add_version(manifest, manifest_id, _directory(layout, manifest))
        taken_in = {manifest_id for manifest_id, _ in manifests}
        catalog.restoring.add_tombstones(
            (manifest_id, tag)
            for tag, manifest_id, path in standing_manifests(layout)
            if manifest_id not in taken_in and not any(line.startswith(f"{path}: ") for line in unreadable)
        )
        catalog.tidy()
    finally:
        catalog.close()
    return RebuildReport(tuple(str(manifest.tag) for _, manifest in manifests), len(found), tuple(unreadable))


def _manifests(layout: Layout, unreadable: list[str]) -> list[tuple[str, Manifest]]:
    """Every version's (manifest id, manifest), oldest first.

    What a save left in `.pending` counts where no manifest of its tag stands: whether it had been committed only the
    old catalog knew, and a version too many is better than one lost.
    """
    standing = [(manifest_id, path, tag) for tag, manifest_id, path in standing_manifests(layout)]
    pending = [(path.name, path, None) for path in layout.pending_manifests.iterdir()]
    found: dict[Tag, tuple[str, Manifest]] = {}
    for manifest_id, path, tag in [*sorted(standing), *sorted(pending, key=lambda each: each[0])]:
        try:
            manifest = Manifest.unpack(path.read_bytes())
            if tag not in (None, manifest.tag):
                raise IntegrityError(f"it is that of {manifest.tag}")
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            unreadable.append(f"{path}: {error}")
            continue
        held = found.get(manifest.tag)
        if held is None or (tag is not None and manifest.created_at_ns > held[1].created_at_ns):
            found[manifest.tag] = (manifest_id, manifest)
    return sorted(found.values(), key=lambda each: (each[1].created_at_ns, each[1].tag))


def _packs(layout: Layout, unreadable: list[str]) -> Iterator[_Found]:
    for path in sorted(layout.packs.iterdir()):
        if path.suffix != ".pack":
            continue
        files.sync_file(path)
        try:
            entries = _entries(path)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            # Where gc would take it for something that a crash has left.
            kept = layout.quarantine / f"{new_id()}.{path.name}"
            files.rename(path, kept)
            unreadable.append(f"{path}, now {kept}: {error}")
            continue
        chunks = tuple(
            NewChunk(e.digest, e.offset, e.length, e.raw_bytes, e.encoding, e.base, e.grouping) for e in entries
        )
        yield _Found(NewContainer(path.stem, None, False, path.stat().st_size, True, None, ()), chunks)


def _entries(path: Path) -> list[pack.PackEntry]:
    try:
        return pack.read_entries(path)
    except OSError as error:
        files.raise_unless_damage(error)
        return pack.read_entries(path)  # a disk may read at the second try what it could not at the first


def _loose_files(
    layout: Layout, recipes: dict[Digest, Recipe], progress: Progress, unreadable: list[str]
) -> list[_Found]:
    """The loose files that some version has, read and compared with their digests."""
    paths = []
    for path in sorted(layout.loose.glob("*/*.*")):
        digest = _digest_of(path)
        if digest in recipes:
            paths.append((path, recipes[digest]))
    progress.start("read", sum(path.stat().st_size for path, _ in paths))
    try:
        with ThreadPoolExecutor(threads()) as pool:
            found = list(pool.map(lambda each: _loose_file(each[0], each[1], progress), paths))
    finally:
        progress.finish()
    unreadable += [f"{each.path}: {each.reason}" for each in found if each.reason]
    return [each.found for each in found]


@dataclass(frozen=True, slots=True)
class _Read:
    path: Path
    reason: str
    found: _Found


def _loose_file(path: Path, recipe: Recipe, progress: Progress) -> _Read:
    """A sound file is one by its stamp from now on; of a damaged one the sound chunks count, and its stamp is none."""
    reason, chunks = "", list(recipe.chunks())
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        files.sync_descriptor(descriptor)
        try:
            is_sound = chunking.scan_file(descriptor, progress.advance).blob == recipe.blob
        except OSError as error:
            files.raise_unless_damage(error)
            is_sound = False
        if not is_sound:
            reason = "it does not match its digest; `casstore repair` heals what it can"
            chunks = [chunk for chunk in chunks if _has_chunk(descriptor, chunk)]
    finally:
        os.close(descriptor)
    unique = {c.digest: NewChunk(c.digest, c.offset, c.length, c.length) for c in chunks}
    stamp = FileStamp(0, status.st_size, 0) if reason else FileStamp.of(status)
    new = NewContainer(path.suffix[1:], recipe.blob, files.is_executable(status), status.st_size, not reason, stamp, ())
    return _Read(path, reason, _Found(new, tuple(unique.values())))


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


def _choose_homes(found: Iterable[_Found]) -> dict[str, list[tuple[NewChunk, int]]]:
    """One home for each chunk, by container, with the links of its chain: whole chunks first, then deltas whose bases
    have homes, so that no chain is a circle or longer than chains may be."""
    homes: dict[str, list[tuple[NewChunk, int]]] = {}
    depths: dict[Digest, int] = {}
    waiting: list[tuple[str, NewChunk]] = []
    for each in found:
        for chunk in each.chunks:
            if chunk.base is not None:
                waiting.append((each.new.file_id, chunk))
            elif chunk.digest not in depths:
                depths[chunk.digest] = 0
                homes.setdefault(each.new.file_id, []).append((chunk, 0))
    for depth in range(1, MAX_LINKS + 1):
        still = []
        for file_id, chunk in waiting:
            if chunk.digest in depths:
                continue
            if depths.get(chunk.base or chunk.digest) == depth - 1 and depths.get(chunk.grouping or chunk.digest) == 0:
                homes.setdefault(file_id, []).append((chunk._replace(generation=depth), depth))
                depths[chunk.digest] = depth
            else:
                still.append((file_id, chunk))
        waiting = still
    return homes


def _directory(layout: Layout, manifest: Manifest) -> DirectoryRow | None:
    """What stands under models/ for the version, to be checked by its bytes before it is used."""
    root = layout.model(manifest.tag)
    if root.is_symlink() or not root.is_dir():
        return None
    entries = []
    for path in (*(file.path for file in manifest.files), DESCRIPTOR_NAME):
        try:
            stamp = FileStamp.of(os.lstat(root / path))
        except OSError as error:
            files.raise_unless_damage(error)
            stamp = FileStamp(0, 0, 0)  # of no file: it is made anew
        entries.append([path, *stamp])
    if Counter(entry[1] for entry in entries)[0] == len(entries):
        return None
    return DirectoryRow(root.lstat().st_ino, _UNKNOWN_BOOT, msgpack.packb(entries))
