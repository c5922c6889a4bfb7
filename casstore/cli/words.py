"""Words that people type for a verb: those that mean one beyond doubt, and what to use instead of the others."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from casstore.late import LateModule

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")

ALIASES = {"rm": "delete", "remove": "delete", "info": "show"}

_SAVE = "`casstore save TAG PATH` keeps a directory or file as a version"
_LIST = (
    "`casstore list` lists versions, newest first; `casstore list NAME -l K=V` those with a label, and "
    "`casstore list 'metrics.acc > 0.9'` those that an expression fits"
)
_PATH = "`casstore path TAG` prints the directory of a version, and `casstore export TAG PATH` writes it elsewhere"
_REMOTES = (
    "`casstore push TAG` brings a version to a remote, `casstore pull TAG` fetches one, and "
    "`casstore remote add NAME URL` sets a remote up"
)
_GC = "`casstore gc` gives back the space of deleted versions and idle directories"
_VERIFY = "`casstore verify` reads everything and names what is damaged"
_REPAIR = "`casstore repair` heals what is damaged"
_SHOW = "`casstore show TAG` tells all about a version"
_DIFF = "`casstore diff A B` tells what differs between two versions, or a version and a directory"
_DELETE = "`casstore delete TAG` deletes a version"
_FORGET = "`casstore forget NAME --keep-last 5` deletes the versions that no rule keeps, once you have seen which"
_STATS = "`casstore stats` shows what versions hold and take"
_SYNC = "`casstore sync-tree` says what other tools have done to models/"
_IMPORT = "`casstore import PATH` saves the versions of an archive"
_ALIAS = "`casstore alias set NAME@ALIAS TAG` has an alias mean a version, and moves it"
_NEW_TAG = 'a tag never moves: `casstore save NEW-TAG "$(casstore path TAG)"` saves a version under another one'
_RESTORE = (
    "`casstore undelete TAG` brings a deleted version back, and `casstore import` saves one from an archive again"
)

_INSTEAD = {
    **dict.fromkeys(("add", "commit", "create", "put", "store", "log-model"), _SAVE),
    **dict.fromkeys(("find", "grep", "history", "models", "query", "search", "tags", "versions"), _LIST),
    **dict.fromkeys(("fetch", "get", "load", "open", "use", "where"), _PATH),
    **dict.fromkeys(("download", "login", "sync", "upload"), _REMOTES),
    **dict.fromkeys(("clean", "cleanup", "collect", "prune", "purge"), _GC),
    **dict.fromkeys(("check", "fsck", "scrub", "validate"), _VERIFY),
    **dict.fromkeys(("doctor", "fix", "heal", "recover"), _REPAIR),
    **dict.fromkeys(("describe", "inspect", "metadata", "view"), _SHOW),
    **dict.fromkeys(("cmp", "compare"), _DIFF),
    **dict.fromkeys(("del", "drop", "erase"), _DELETE),
    **dict.fromkeys(("expire", "keep", "retain", "retention", "thin"), _FORGET),
    **dict.fromkeys(("df", "du", "size", "usage"), _STATS),
    **dict.fromkeys(("copy", "cp", "mv", "rename", "tag"), _NEW_TAG),
    **dict.fromkeys(("restore", "undo", "unremove"), _RESTORE),
    **dict.fromkeys(("aliases", "promote", "point", "rollback", "stage"), _ALIAS),
    "extract": _PATH,
    "policies": "`casstore policy show` lists the policies that are stored",
    "unpack": _IMPORT,
    "settings": "`casstore config` lists the store's settings",
    "setup": "`casstore init` makes a store, and so does the first `casstore save`",
}  # fmt: skip


def advice(word: str, verbs: Collection[str]) -> str:
    """What to say of a verb that is not there: what does what it means, or what it may be a slip for."""
    said = f"there is no verb {word!r}"
    instead = _INSTEAD.get(word.lower())
    if instead is not None:
        return f"{said}; {instead}"
    near = difflib.get_close_matches(word.lower(), [*verbs, *ALIASES], n=1)
    return f"{said}; did you mean {near[0]!r}?" if near else f"{said}; `casstore help` lists those there are"
