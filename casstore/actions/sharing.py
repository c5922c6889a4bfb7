"""Making a store on purpose, and sharing one with a group."""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from casstore.actions.home import is_of_bentoml, open_workspace
from casstore.errors import InvalidSetting, StoreUnwritable
from casstore.notebook import Shown
from casstore.storage import access, denials, sharing
from casstore.storage.layout import Layout

# What `git init --shared` means by these words.
_MODES = {"group": 0o2770, "all": 0o2775}


@dataclass(frozen=True, slots=True)
class InitReport(Shown):
    """What `Store.init` has found or made.

    Attributes
    ----------
    home
        The store.
    is_new
        Whether it was made now.
    shared
        "group" where the members of `group` may write to it, "all" where every user may read it too, or None.
    group
        The group of the store's directory.
    opened
        How many files and directories were closed to those who share the store, and are open now.
    left
        Paths of what is still closed to them, for it belongs to other users: each of them, or root, has to run it.
    """

    home: Path
    is_new: bool
    shared: str | None
    group: str
    opened: int = 0
    left: tuple[str, ...] = ()


def init(layout: Layout, shared: str | None, group: str | None) -> InitReport:
    """Make a store, unless one stands there, and share it.

    Raises InvalidSetting, StoreUnwritable, StoreError, OSError.
    """
    if shared is not None and shared not in _MODES:
        raise InvalidSetting(f"a store cannot be shared with {shared!r}; choose one of: {', '.join(_MODES)}")
    if group is not None and shared is None:
        raise InvalidSetting(f"say how the store is to be shared with the group {group}: with shared, group or all")
    gid = None if group is None else _group_id(group)
    is_new = not layout.catalog.exists()
    open_workspace(layout.home).close()  # first: it refuses a directory that is something else
    changed: list[tuple[str, bool]] = []
    if shared is not None:
        _share_home(layout.home, _MODES[shared], gid)
        access.follow(layout.home)
        changed = list(_share_all(layout))
    follows = access.Access.of(layout.home)
    return InitReport(
        layout.home,
        is_new,
        None if not follows.is_shared else "all" if follows.mode & 0o004 else "group",
        denials.group_name(follows.gid),
        sum(is_open for _, is_open in changed),
        tuple(path for path, is_open in changed if not is_open),
    )


def _share_home(home: Path, mode: int, gid: int | None) -> None:
    follows = access.Access.of(home)
    if follows.mode & mode == mode and gid in (None, follows.gid):
        return
    try:
        sharing.share_home(home, mode, gid)
    except PermissionError as error:
        if follows.uid != os.geteuid():
            who = denials.user_name(follows.uid)
            raise StoreUnwritable(f"{home} belongs to {who}; only {who}, or root, can share it") from error
        group = denials.group_name(follows.gid if gid is None else gid)
        raise StoreUnwritable(
            f"{home} cannot be given to the group {group}, of which you are not a member; `id -Gn` lists yours"
        ) from error


def _share_all(layout: Layout) -> Iterator[tuple[str, bool]]:
    skipped = {str(path) for path in layout.home.iterdir() if is_of_bentoml(path.name)}
    roots = [layout.home]
    if layout.models.is_symlink():
        roots.append(layout.models.resolve())
    for root in roots:
        yield from sharing.share_tree(root, layout.home, drafts=layout.sessions, skipped=skipped)


def _group_id(group: str) -> int:
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise InvalidSetting(f"there is no group {group!r}; `getent group` lists them") from error
