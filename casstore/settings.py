"""The settings that a store keeps, their values and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from casstore.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its default, what it takes, and what it means, in words for `casstore config`."""

    default: str
    takes: str
    meaning: str
    accepts: Callable[[str], bool]


def _one_of(default: str, *others: str, meaning: str) -> Setting:
    values = (default, *others)
    return Setting(default, " or ".join(values), meaning, values.__contains__)


SETTINGS: Mapping[str, Setting] = {
    "durability": _one_of(
        "full",
        "relaxed",
        meaning="full: a save that has returned survives a power cut; relaxed: it survives a crash of the process only",
    ),
    "link_mode": _one_of(
        "auto",
        "copy",
        meaning="auto: version directories are hardlinks, copies where links fail; copy: always copies",
    ),
}


def check_setting(key: str, value: str) -> str:
    """Return `value` when `key` takes it; raise InvalidSetting, naming what would do, when not."""
    setting = check_key(key)
    if not setting.accepts(value):
        raise InvalidSetting(f"{key} takes {setting.takes}, not {value!r}")
    return value


def check_key(key: str) -> Setting:
    """The setting of that key. Raises InvalidSetting with the nearest key for an unknown one."""
    if key not in SETTINGS:
        near = get_close_matches(key, SETTINGS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the settings are: {', '.join(SETTINGS)}"
        raise InvalidSetting(f"there is no setting {key!r}; {hint}")
    return SETTINGS[key]
