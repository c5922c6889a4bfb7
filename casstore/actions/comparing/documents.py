"""JSON and YAML as the values in them that differ, read within limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from casstore.actions.comparing.difference import Change, ValueChange
from casstore.storage import bounded_yaml

# A tokenizer's vocabulary takes up to 20 MB.
MAX_JSON_BYTES = 32 << 20
MAX_YAML_BYTES = 4 << 20  # which takes some seconds
# What makes the parser create objects: commas, colons and brackets. Each may take 100 bytes of memory.
MAX_JSON_ITEMS = 4_000_000
MAX_DEPTH = 100  # what nests deeper is compared as a whole
_MOST_DIGITS = 4300  # of an integer that Python reads

_WORD = re.compile(r"[^\W\d][\w-]*")
_SUFFIXES = {".json": MAX_JSON_BYTES, ".yaml": MAX_YAML_BYTES, ".yml": MAX_YAML_BYTES}


def most_bytes(path: str) -> int | None:
    """How large a document at this path may be to be read; None if its name is not that of a document."""
    return next((limit for suffix, limit in _SUFFIXES.items() if path.lower().endswith(suffix)), None)


def parse(path: str, raw: bytes) -> Any:
    """The value that a document is. Raises ValueError that says why it cannot be read."""
    if not path.lower().endswith(".json"):
        return bounded_yaml.load(raw)
    if sum(map(raw.count, (b",", b":", b"[", b"{"))) > MAX_JSON_ITEMS:
        raise ValueError(f"it holds more than {MAX_JSON_ITEMS:,} values")
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_int=_integer)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def changes(old: Any, new: Any, root: str = "$") -> Iterator[ValueChange]:
    """Every value that differs, in the order of the new one, what was removed after what stands beside it.

    `root`: what paths begin with; empty for keys alone. Of lists the beginning and the end that are equal are left
    out, and what stands between is compared item by item. Raises RecursionError for what nests thousands deep.
    """
    return _changes(old, new, root, 0)


def _changes(old: Any, new: Any, path: str, depth: int) -> Iterator[ValueChange]:
    if depth < MAX_DEPTH and isinstance(old, dict) and isinstance(new, dict):
        yield from _of_mappings(old, new, path, depth)
    elif depth < MAX_DEPTH and isinstance(old, list) and isinstance(new, list):
        yield from _of_lists(old, new, path, depth)
    elif not _is_same(old, new):
        yield ValueChange(Change.CHANGED, path, old, new)


def _is_same(old: Any, new: Any) -> bool:
    """Whether two values are the same to a reader of their text: 1 is neither 1.0 nor true, and NaN is NaN."""
    if type(old) is not type(new):
        return False
    if isinstance(old, dict):
        before, after = _typed(old), _typed(new)
        return before.keys() == after.keys() and all(_is_same(value, after[key]) for key, value in before.items())
    if isinstance(old, list):
        return len(old) == len(new) and all(map(_is_same, old, new))
    return bool(old == new and str(old) == str(new)) or bool(old != old and new != new)


def _of_mappings(old: dict[Any, Any], new: dict[Any, Any], path: str, depth: int) -> Iterator[ValueChange]:
    before, after = _typed(old), _typed(new)
    for key, value in after.items():
        below = _below(path, key[1])
        if key in before:
            yield from _changes(before[key], value, below, depth + 1)
        else:
            yield ValueChange(Change.ADDED, below, None, value)
    for key, value in before.items():
        if key not in after:
            yield ValueChange(Change.REMOVED, _below(path, key[1]), value, None)


def _typed(mapping: dict[Any, Any]) -> dict[tuple[type, Any], Any]:
    """The mapping by keys that tell 1 and true of YAML apart, which are equal to Python."""
    return {(type(key), key): value for key, value in mapping.items()}


def _of_lists(old: list[Any], new: list[Any], path: str, depth: int) -> Iterator[ValueChange]:
    first = last = 0
    if len(old) != len(new):
        shorter = min(len(old), len(new))
        while first < shorter and _is_equal(old[first], new[first]):
            first += 1
        while last < shorter - first and _is_equal(old[-1 - last], new[-1 - last]):
            last += 1
    between_old, between_new = old[first : len(old) - last], new[first : len(new) - last]
    both = min(len(between_old), len(between_new))
    for number in range(both):
        yield from _changes(between_old[number], between_new[number], f"{path}[{first + number}]", depth + 1)
    for number, value in enumerate(between_new[both:], first + both):
        yield ValueChange(Change.ADDED, f"{path}[{number}]", None, value)
    for number, value in enumerate(between_old[both:], first + both):
        yield ValueChange(Change.REMOVED, f"{path}[{number}]", value, None)


def _is_equal(old: Any, new: Any) -> bool:
    # The first comparison is quick, and is made again at each level of what nests.
    return bool(old == new) and _is_same(old, new)


def _below(path: str, key: Any) -> str:
    if isinstance(key, str) and _WORD.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{json.dumps(key, ensure_ascii=False, default=str)}]"
