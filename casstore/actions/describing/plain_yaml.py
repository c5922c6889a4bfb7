"""YAML of documents that need no care, such as most descriptors: the text that PyYAML writes, in a tenth of the time.

To import PyYAML takes longer than to open a small version. It is asked for all others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Text that is written as it is, wherever it stands: it is not long enough to be folded, and means nothing else.
_WORD = re.compile(r"[A-Za-z_][-+./A-Za-z0-9_]*")
_ID = re.compile(r"[0-9][A-Za-z0-9_]*[g-wyz][A-Za-z0-9_]*")  # no digit of any number
_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+){2,4}(?:[-+.A-Za-z][-+.A-Za-z0-9]*)?")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{6})?\+00:00")
_LONGEST = 64
# What YAML 1.1 takes for booleans and nulls; and "y" and "n", for the sake of other readers.
_MEANING = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_MOST_DEEP = 8


class _NotPlain(Exception):
    """The document holds something that needs care."""


def dump(document: Mapping[str, Any]) -> str | None:
    """What `yaml.safe_dump(document, sort_keys=False, allow_unicode=True)` writes; None where it has to be asked."""
    if not document:
        return None
    try:
        return "".join(_lines(document, "", {id(document)}))
    except _NotPlain:
        return None


def _lines(mapping: Mapping[str, Any], indent: str, seen: set[int]) -> Iterator[str]:
    if len(indent) > 2 * _MOST_DEEP:
        raise _NotPlain
    for key, value in mapping.items():
        if type(value) not in (dict, list):
            yield f"{indent}{_text(key)}: {_scalar(value)}\n"
            continue
        if id(value) in seen:  # PyYAML writes an alias
            raise _NotPlain
        seen.add(id(value))
        if not value:
            yield f"{indent}{_text(key)}: {value}\n"
            continue
        yield f"{indent}{_text(key)}:\n"
        if type(value) is dict:
            yield from _lines(value, indent + "  ", seen)
        else:
            yield from (f"{indent}- {_scalar(each)}\n" for each in value)


def _scalar(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return "''" if not value else f"'{value}'" if _TIME.fullmatch(value) else _text(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int and -(1 << 63) <= value < 1 << 63:
        return str(value)
    if kind is float and math.isfinite(value):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    raise _NotPlain


def _text(text: Any) -> str:
    if type(text) is not str or len(text) > _LONGEST:
        raise _NotPlain
    if _WORD.fullmatch(text) is not None and text.lower() not in _MEANING:
        return text
    if _VERSION.fullmatch(text) is not None or _ID.fullmatch(text) is not None:
        return text
    raise _NotPlain
