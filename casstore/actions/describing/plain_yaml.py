"""YAML of documents of plain words and numbers, as PyYAML writes it: to import that takes longer than to open a small
version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

# Words that mean nothing else in YAML, versions with two dots or more, and moments, which are quoted as they would be
# read as such.
_WORD = re.compile(r"[A-Za-z][-+./A-Za-z0-9_]{0,60}")
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){2}[-+.A-Za-z0-9]{0,40}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?\+00:00")
_NO_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


class _NotPlain(Exception):
    """The document holds something of which only PyYAML knows how it is written."""


def dump(document: Mapping[str, object]) -> str | None:
    """The document as YAML, or None where it holds what is not plain: other text, longer numbers, deeper lists."""
    try:
        return "".join(_mapping(document, "", set())) or None
    except _NotPlain:
        return None


def _mapping(document: Mapping[str, object], indent: str, seen: set[int]) -> Iterator[str]:
    for key, value in document.items():
        if not key:
            raise _NotPlain
        start = f"{indent}{_scalar(key)}:"
        if type(value) in (dict, list):
            if id(value) in seen:  # the same object once more, which PyYAML refers to
                raise _NotPlain
            seen.add(id(value))
        if type(value) is dict and value:
            yield f"{start}\n"
            yield from _mapping(value, f"{indent}  ", seen)
        elif type(value) is list and value:
            yield f"{start}\n"
            yield from (f"{indent}- {_scalar(each)}\n" for each in value)
        else:
            yield f"{start} {'{}' if value == {} else '[]' if value == [] else _scalar(value)}\n"


def _scalar(value: object) -> str:
    if type(value) is str:
        if not value:
            return "''"
        if _MOMENT.fullmatch(value):
            return f"'{value}'"
        if (_WORD.fullmatch(value) and value.lower() not in _NO_WORDS) or _VERSION.fullmatch(value):
            return value
    elif type(value) is bool:
        return "true" if value else "false"
    elif type(value) in (int, float) and _NUMBER.fullmatch(text := repr(value)):
        return text
    raise _NotPlain
