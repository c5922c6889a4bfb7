"""NaN and infinities in metadata, which JSON does not have.

A description holds their text, such as "nan", and beside the metadata, under `not_finite`, the places where such a
text stands for a number. A reader that does not know of it sees texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# The very objects: a dict that holds one is equal to another that does, though NaN is not equal to itself.
_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_Place = list[str | int]


def marked(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], list[_Place]]:
    """Metadata with text in place of what is not finite, and the places of that."""
    return _as_text(metadata), list(_places(metadata, []))


def restored(metadata: dict[str, Any], places: Any) -> dict[str, Any]:
    """Metadata with its numbers; places where nothing such stands are passed over."""
    if not isinstance(places, list) or not places:
        return metadata
    metadata = _copied(metadata)
    for place in places:
        if isinstance(place, list) and place:
            _restore(metadata, place)
    return metadata


def _places(value: Any, above: _Place) -> Iterator[_Place]:
    if isinstance(value, float) and not math.isfinite(value):
        yield above
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _places(value[key], [*above, key])
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _places(item, [*above, number])


def _as_text(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _as_text(item) for key, item in value.items()}
    return list(map(_as_text, value)) if isinstance(value, list) else value


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(map(_copied, value)) if isinstance(value, list) else value


def _restore(value: Any, place: Sequence[Any]) -> None:
    *above, last = place
    try:
        for step in above:
            value = value[step]
        if isinstance(value[last], str):
            value[last] = _NUMBERS[value[last]]
    except (LookupError, TypeError):  # of a stranger's manifest
        return
