"""Values of any kind as plain JSON: how labels, metadata and all else that is said of a version is kept."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import reprlib
from collections.abc import Mapping, Set
from enum import Enum
from pathlib import PurePath
from typing import Any

from casstore.errors import InvalidMetadata

_MAX_DEPTH = 64
_MOST_ITEMS = 2_000_000  # of a document that others made: lists, objects and what is in them
_MOST_BITS = 13_300  # of an integer: Python writes and reads 4,300 digits at most
_ARRAYS = {"numpy", "torch", "tensorflow", "ml_dtypes"}


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces; the same text for equal values. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def parsed(data: bytes) -> Any:
    """A document that others made. Raises ValueError, RecursionError; ValueError where it would take much memory.

    An empty list takes three bytes of a document, and twenty times that in memory.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MOST_ITEMS:
        raise ValueError("it has too many items")
    return json.loads(data)


def mapping(field: str, value: Any) -> Mapping[str, Any]:
    """`value` as a mapping, empty for None. Raises InvalidMetadata."""
    if value is None:
        return {}
    if hasattr(value, "to_dict"):  # BentoML's own ModelOptions and ModelContext
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise InvalidMetadata(f"{field} is a dict, not {type(value).__name__}")
    return value


def plain_mapping(field: str, value: Any, *, may_be_nan: bool = False) -> dict[str, Any]:
    """`value`, a mapping or None, in JSON's types; NaN and infinities are kept where they may be.

    What means one thing only is converted: paths, dates, members of enumerations and dtypes become text, sets and
    arrays lists, dataclasses dicts. Raises InvalidMetadata, naming key and value.
    """
    made: dict[str, Any] = plain_value(field, mapping(field, value), may_be_nan=may_be_nan)
    return made


def plain_labels(labels: Mapping[str, Any] | None) -> dict[str, str]:
    """Labels as they are kept: numbers, booleans and what else `plain_mapping` makes one of are text.

    Raises InvalidMetadata, naming key and value.
    """
    return {str(key): label(key, value) for key, value in mapping("labels", labels).items()}


def label(key: Any, value: Any) -> str:
    """The text of one label: True is "true", as in JSON and YAML. Raises InvalidMetadata."""
    if not isinstance(key, str):
        raise InvalidMetadata(f"labels map text to text, and {_shown(key)} maps to {_shown(value)}; try str(...)")
    checked_text("labels", key)
    plain = None
    if not isinstance(value, list | tuple | Mapping):
        plain = plain_value(f"labels[{key!r}]", value, may_be_nan=True)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, int | float):
        return str(plain)
    if not isinstance(plain, str):
        raise InvalidMetadata(f"labels map text to text, and {_shown(key)} maps to {_shown(value)}; try str(...)")
    return plain


def plain_value(field: str, value: Any, depth: int = 0, *, may_be_nan: bool = False) -> Any:
    """`value` in JSON's types. Raises InvalidMetadata."""
    if type(value) is float and math.isfinite(value):  # most of what a version has many of
        return value
    if depth > _MAX_DEPTH:
        raise InvalidMetadata(f"{field[:60]}... is nested more than {_MAX_DEPTH} deep, or contains itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        # One that is text or a number itself is kept as that, and so is one that stands for text.
        is_plain = isinstance(value, str | int | float) or isinstance(value.value, str)
        meant = value.value if is_plain else value.name or str(value)
        return plain_value(field, meant, depth + 1, may_be_nan=may_be_nan)
    if isinstance(value, str):
        return checked_text(field, value)
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise InvalidMetadata(f"{field} is a number of more than 4,000 digits; write it as text")
        return int(value)
    if isinstance(value, float):
        if not (may_be_nan or math.isfinite(value)):
            raise InvalidMetadata(f"{field} is {value}, which JSON cannot hold; leave it out or write it as text")
        return float(value)

    def within(place: str, item: Any) -> Any:
        return plain_value(place, item, depth + 1, may_be_nan=may_be_nan)

    if isinstance(value, Mapping):
        plain = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidMetadata(
                    f"{field} has the key {_shown(key)} (with {_shown(item)}); keys are text: try str(...)"
                )
            plain[checked_text(field, key)] = within(f"{field}.{key}", item)
        return plain
    if isinstance(value, (list, tuple)):
        return [within(f"{field}[{number}]", item) for number, item in enumerate(value)]
    if isinstance(value, Set):
        return _in_order([within(f"{field}[{_shown(item)}]", item) for item in value])
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, PurePath):
        return checked_text(field, str(value))
    # numpy's scalars and arrays, and torch's tensors, without importing either.
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return within(field, value.tolist())
    if _is_dtype(value):
        return str(getattr(value, "name", value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return {name: within(f"{field}.{name}", getattr(value, name, None)) for name in names}
    raise InvalidMetadata(
        f"{field} is of type {type(value).__name__}, {_shown(value)}, which JSON cannot hold; use text, numbers, "
        "lists and dicts, or custom_objects for Python objects"
    )


def _is_dtype(value: Any) -> bool:
    """Whether that is a dtype or a device of numpy, torch or one of their kin, none of which is imported here."""
    return any(
        kind.__name__.lower() in ("dtype", "device") and kind.__module__.partition(".")[0] in _ARRAYS
        for kind in type(value).__mro__
    )


def _in_order(items: list[Any]) -> list[Any]:
    """The items of a set, always in the same order."""
    try:
        return sorted(items)
    except TypeError:  # of several types
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _shown(value: Any) -> str:
    """A value in an error's message, cut short."""
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - objects may raise anything
        return f"<{type(value).__name__}>"


def checked_text(field: str, text: str) -> str:
    """`text` as a plain str. Raises InvalidMetadata where UTF-8 cannot hold it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidMetadata(f"{field} holds text that is not Unicode: {text!r}") from error
    return text if type(text) is str else str.__str__(text)  # what a subclass says of itself may be another text
