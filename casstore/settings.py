"""The settings that a store keeps, their values and their defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from casstore.errors import InvalidSetting
from casstore.late import LateModule

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")


class Setting(NamedTuple):
    """One setting of a store.

    Attributes
    ----------
    default
        Its value where none is set.
    takes
        The values that it takes, in words.
    meaning
        What it means, in words for `casstore config`.
    accepts
        Whether a value may be set.
    """

    default: str
    takes: str
    meaning: str
    accepts: Callable[[str], object]


def _one_of(default: str, *others: str, meaning: str) -> Setting:
    values = (default, *others)
    return Setting(default, " or ".join(values), meaning, values.__contains__)


def _number(default: int, unit: str, *, most: int, meaning: str) -> Setting:
    """A whole number from 0 on, in the one way of writing it."""

    def accepts(value: str) -> bool:
        return value.isascii() and value.isdigit() and value == str(int(value[:20])) and int(value) <= most

    return Setting(str(default), f"a whole number of {unit} from 0 to {most}", meaning, accepts)


SETTINGS: Mapping[str, Setting] = {
    "durability": _one_of(
        "full",
        "relaxed",
        meaning="full: a save that has returned survives a power cut; relaxed: it survives a crash of the process only",
    ),
    "link_mode": _one_of(
        "auto",
        "hardlink",
        "reflink",
        "copy",
        "protect",
        meaning="how larger files come into directories. auto: hardlinks, copies where links fail, and for who may "
        "write to read-only files, as root may, reflinks where there are any; hardlink: hardlinks, refused where the "
        "file system has none; reflink: copies that share blocks until they are written to, refused where the file "
        "system has none; copy: full copies; protect: reflinks or else copies, so that no write into a directory harms "
        "what is saved",
    ),
    "materialize": _one_of(
        "newest",
        "all",
        meaning="newest: gc takes directories away that are not in use, never that of the newest version of a name; "
        "all: it takes none away",
    ),
    "keep_days": _number(
        7,
        "days",
        most=36_500,  # a century: in nanoseconds, still far from the limit of an integer in SQLite
        meaning="how many days after a version was saved or last opened gc leaves its directory alone",
    ),
    "trash_days": _number(
        7,
        "days",
        most=36_500,
        meaning="how many days a deleted version can be brought back (`casstore undelete`) before gc takes it for "
        "good; 0: delete takes it at once",
    ),
    "verify_days": _number(
        30,
        "days",
        most=36_500,
        meaning="how many days stored bytes count as sound after they were written or read; a save that brings older "
        "ones again keeps a copy of its own, or reads them",
    ),
    "pull_missing": Setting(
        "off",
        "off or the name of a remote",
        "the remote from which a version is pulled that a user asks for and the store does not have; off: none is",
        re.compile(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?").fullmatch,
    ),
    "require_signature": Setting(
        "off",
        "off or the path of a file with public keys in PEM",
        "off: `casstore import` and `casstore pull` take versions in whether they are signed or not; the path of a "
        "file with public keys in PEM: only what is signed by one of these keys (`casstore sign`)",
        bool,
    ),
    "hf_caches": Setting(
        "off",
        "off or directories, separated by colons",
        "directories, separated by colons: caches of huggingface_hub, in which what `casstore hf-cache link` has made, "
        "which adds them here, follows when `casstore alias` moves an alias; off: none does",
        bool,
    ),
    "auto_gc": _one_of(
        "on",
        "off",
        meaning="on: a save that leaves much to be given back starts gc in the background; off: gc runs when called",
    ),
}


def check_setting(key: str, value: str) -> str:
    """Return `value` when `key` takes it.

    Raises
    ------
    InvalidSetting
        There is no such setting, or it does not take the value; the message names what would do.
    """
    setting = check_key(key)
    if not setting.accepts(value):
        raise InvalidSetting(f"{key} takes {setting.takes}, not {value!r}")
    return value


def check_key(key: str) -> Setting:
    """Return the setting of that key.

    Raises
    ------
    InvalidSetting
        There is no such setting; the message names the nearest key.
    """
    if key not in SETTINGS:
        near = difflib.get_close_matches(key, SETTINGS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the settings are: {', '.join(SETTINGS)}"
        raise InvalidSetting(f"there is no setting {key!r}; {hint}")
    return SETTINGS[key]
