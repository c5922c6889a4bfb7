"""Versions in the layout of huggingface_hub's cache, where transformers and others load them by name, offline.

The layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import casstore

__all__ = ["ORGANISATION", "Linked", "cache_directory", "link", "unlink"]

ORGANISATION = "casstore"
_MARKER = ".casstore"
_REVISION_DIGITS = 40


class Linked(NamedTuple):
    """A repository in a cache: its name there, where it is, and the version that each revision means."""

    repository: str
    path: str
    revisions: dict[str, str]


def cache_directory() -> Path:
    """Where huggingface_hub has its cache, as its own environment variables say."""
    environment = os.environ.get
    named = environment("HF_HUB_CACHE") or environment("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    cache = environment("XDG_CACHE_HOME") or "~/.cache"
    return Path(environment("HF_HOME") or Path(cache, "huggingface"), "hub").expanduser()


def link(
    store: casstore.Store, name: str, directory: str | os.PathLike[str] | None = None, *, everything: bool = False,
    copy: bool = False,
) -> Linked:  # fmt: skip
    """Make versions of a name loadable as `from_pretrained("casstore/NAME", revision=...)`.

    Revisions are the aliases, the tags' versions, and `main`, which is the newest version. Linked are the newest
    version and those with an alias. Doing it again brings all that up to date. The files are hardlinks to the store's,
    so they stay whatever becomes of the directories in the store; `copy` makes copies of them.

    Parameters
    ----------
    store
        The store.
    name
        The name of the versions.
    directory
        The cache. None means that of huggingface_hub.
    everything
        Link every version; each gets a directory in the store.
    copy
        Make copies, as for a cache on another file system.

    Returns
    -------
    Linked
        What is there now.

    Raises
    ------
    TagNotFound
        There is no version of this name.
    InvalidSource
        No link can be made there, or what stands there is not such a repository of this store.
    """
    newest = store.get(name)
    name = newest.tag.name
    aliases = {each.alias: each.tag for each in store.aliases(name)}
    tags = {newest.tag, *aliases.values(), *(model.tag for model in (store.list(name) if everything else ()))}
    models = {tag: store.get(tag) for tag in sorted(tags)}
    revisions = {tag.version: tag for tag in models} | {"main": newest.tag} | aliases
    root = _root(store, name, directory)
    snapshots = {tag: str(model.digest)[:_REVISION_DIGITS] for tag, model in models.items()}
    for tag, model in models.items():
        _fill(store, model, root / "snapshots" / snapshots[tag], copy=copy)
    (root / "refs").mkdir(exist_ok=True)
    for revision, tag in revisions.items():
        _point(root / "refs" / revision, snapshots[tag])
    for path in (root / "refs").iterdir():
        if path.name not in revisions:
            path.unlink()
    for path in (root / "snapshots").iterdir():
        if path.name not in snapshots.values():
            shutil.rmtree(path)
    return Linked(f"{ORGANISATION}/{name}", str(root), {each: str(tag) for each, tag in sorted(revisions.items())})


def unlink(store: casstore.Store, name: str, directory: str | os.PathLike[str] | None = None) -> str:
    """Take the repository that `link` has made out of the cache again; the store keeps all. Returns its path.

    Raises FileNotFoundError where there is none, and InvalidSource for one that is not this store's.
    """
    root = _place(name, directory)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not there; nothing is linked")
    _check(store, root)
    shutil.rmtree(root)
    return str(root)


def _place(name: str, directory: str | os.PathLike[str] | None) -> Path:
    cache = cache_directory() if directory is None else Path(directory)
    return cache.absolute() / f"models--{ORGANISATION}--{name}"


def _root(store: casstore.Store, name: str, directory: str | os.PathLike[str] | None) -> Path:
    root = _place(name, directory)
    root.mkdir(parents=True, exist_ok=True)
    if not any(root.iterdir()):
        (root / _MARKER).write_text(json.dumps({"home": str(store.home.resolve())}), encoding="utf-8")
    _check(store, root)
    (root / "snapshots").mkdir(exist_ok=True)
    return root


def _check(store: casstore.Store, root: Path) -> None:
    """Raise InvalidSource unless this is what `link` has made of this store's versions."""
    try:
        home = json.loads((root / _MARKER).read_text(encoding="utf-8"))["home"]
    except (OSError, ValueError, KeyError, TypeError):
        raise casstore.InvalidSource(
            f"{root} was not made by `casstore hf-cache link`, and is left as it is; name another directory"
        ) from None
    if home != str(store.home.resolve()):
        raise casstore.InvalidSource(
            f"{root} has versions of another store, {home}; name another directory, or remove it by "
            f"`casstore --home {home} hf-cache unlink`"
        )


def _fill(store: casstore.Store, model: casstore.Model, snapshot: Path, *, copy: bool) -> None:
    if snapshot.is_dir() and all(_has(snapshot / file.path, file.size) for file in model.files):
        return
    if snapshot.exists():  # somebody has removed files from it
        shutil.rmtree(snapshot)
    try:
        store.checkout(model.tag, snapshot, link=not copy)
    except casstore.InvalidSource as error:
        if copy:
            raise
        raise casstore.InvalidSource(
            f"{error}. Give hf-cache a directory on the store's file system, for $HF_HUB_CACHE, or --copy"
        ) from error


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _point(ref: Path, revision: str) -> None:
    """Write a ref in one piece: all are of one length, so nobody reads half of it."""
    descriptor = os.open(ref, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, revision.encode("ascii"))
    finally:
        os.close(descriptor)
