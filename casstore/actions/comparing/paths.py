"""Which files two sides have in common, and which have only moved."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from casstore.actions.comparing.difference import Change, FileChange
from casstore.actions.comparing.sides import Side
from casstore.digest import Digest
from casstore.storage.manifest import FileEntry
from casstore.storage.recipe import Recipe


def pairs_of(old: Side, new: Side) -> dict[str, str]:
    """Paths of the new side's files to those of the old side's: the same ones, then those with the same bytes."""
    pairs = {path: path for path in new.files if path in old.files}
    gone: dict[tuple[Digest, bool], deque[str]] = {}
    for path, file in old.files.items():
        if path not in pairs:
            gone.setdefault((file.digest, file.executable), deque()).append(path)
    for path, file in new.files.items():
        same = gone.get((file.digest, file.executable)) if path not in pairs and file.size else None
        if same:
            pairs[path] = same.popleft()
    return pairs


def file_changes(old: Side, new: Side, pairs: Mapping[str, str]) -> list[FileChange]:
    """What became of each file and empty directory, but for those that are the same."""
    found = []
    for path, file in new.files.items():
        before = old.files[pairs[path]] if path in pairs else None
        if before is None:
            found.append(FileChange(Change.ADDED, path, None, None, file.size, None, False, file.executable))
        elif before.path != path or not is_same(before, file):
            found.append(_changed(before, file, old.recipes.get(before.digest), new.recipes.get(file.digest)))
    for path in old.files.keys() - set(pairs.values()):
        file = old.files[path]
        found.append(FileChange(Change.REMOVED, path, path, file.size, None, None, file.executable))
    found += _directories(old.directories, new.directories)
    return sorted(found, key=lambda each: (each.path, each.change is not Change.REMOVED))


def is_same(old: FileEntry, new: FileEntry) -> bool:
    """Whether two files have the same bytes and may both be run, or neither."""
    return (old.digest, old.executable) == (new.digest, new.executable)


def _changed(old: FileEntry, new: FileEntry, before: Recipe | None, after: Recipe | None) -> FileChange:
    change = Change.CHANGED if old.path == new.path else Change.RENAMED
    share = None
    if old.digest == new.digest:
        share = 0.0
    elif before is not None and after is not None:
        chunks = [(chunk.digest, chunk.length) for chunk in after.chunks()]
        share = new_share(set(before.digests), chunks)
    return FileChange(change, new.path, old.path, old.size, new.size, share, old.executable, new.executable)


def new_share(old: set[Digest], new: Iterable[tuple[Digest, int]]) -> float:
    """The share of the bytes of chunks, given with their lengths, that are not among the old ones; 0 for none."""
    total = fresh = 0
    for digest, length in new:
        total += length
        fresh += 0 if digest in old else length
    return fresh / total if total else 0.0


def _directories(old: Iterable[str], new: Iterable[str]) -> list[FileChange]:
    before, after = set(old), set(new)
    added = [FileChange(Change.ADDED, f"{path}/", None, None, 0) for path in after - before]
    return added + [FileChange(Change.REMOVED, f"{path}/", f"{path}/", 0, None) for path in before - after]
