"""YAML documents as plain data, read within bounds.

PyYAML's own loaders build whatever a document says: anchors make a kilobyte a gigabyte, a number of a hundred
kilobytes takes seconds, a list can contain itself. This one builds from the parser's events, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_NODES = 1_000_000  # with what aliases stand for; some 150 MB of Python objects
MAX_DEPTH = 80
# What a longer plain scalar could be is text only: Python reads integers of 4300 digits at most.
_LONGEST_NUMBER = 4300

# The C implementation where PyYAML was built with it; some twenty times faster.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PREFIX = "tag:yaml.org,2002:"
_SCALARS = {
    _PREFIX + "null": yaml.SafeLoader.construct_yaml_null,
    _PREFIX + "bool": yaml.SafeLoader.construct_yaml_bool,
    _PREFIX + "int": yaml.SafeLoader.construct_yaml_int,
    _PREFIX + "float": yaml.SafeLoader.construct_yaml_float,
    _PREFIX + "binary": yaml.SafeLoader.construct_yaml_binary,
    _PREFIX + "timestamp": yaml.SafeLoader.construct_yaml_timestamp,
    _PREFIX + "str": yaml.SafeLoader.construct_yaml_str,
}


class ForeignObject(ValueError):
    """A document asks for an object of some program, such as `!!python/object`, which is never made."""


def top_level_keys(document: bytes) -> Iterator[str]:
    """The keys of the mapping that a document is, in order; nothing for any other. Raises ValueError."""
    depth = nodes = 0
    for event in _events(document):
        if depth == 1 and isinstance(event, yaml.NodeEvent):
            if nodes % 2 == 0 and isinstance(event, yaml.ScalarEvent):
                yield event.value
            nodes += 1
        if isinstance(event, yaml.CollectionStartEvent):
            if depth == 0 and not isinstance(event, yaml.MappingStartEvent):
                return
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def load(document: bytes) -> Any:
    """The one document in `document`: dicts, lists, text, numbers, booleans, None, bytes, dates and datetimes.

    Equal to what `yaml.safe_load` gives for what it accepts. Raises ForeignObject, ValueError for what is not YAML, too
    large, too deep, or has merge keys, sets or keys that are collections.
    """
    building = _Building()
    for event in _events(document):
        building.take(event)
    if not building.values:
        return None
    if len(building.values) > 1:
        raise ValueError("it holds more than one document")
    return building.values[0]


def _events(document: bytes) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(document, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet. `first`: the number of nodes before it."""

    value: dict[Any, Any] | list[Any]
    anchor: str | None
    first: int
    key: Any = None
    has_key: bool = False


@dataclass(slots=True)
class _Building:
    values: list[Any] = field(default_factory=list)
    _open: list[_Open] = field(default_factory=list)
    _anchored: dict[str, tuple[Any, int]] = field(default_factory=dict)
    _nodes: int = 0
    _reader: yaml.SafeLoader = field(default_factory=lambda: yaml.SafeLoader(""))

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, is_key=self._is_key_next())
            self._count(1)
            self._add(value, event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchored:
                raise ValueError(f"the alias {event.anchor!r} stands for nothing, or for what it is in itself")
            value, nodes = self._anchored[event.anchor]
            self._count(nodes)
            self._add(value, None, nodes)
        elif isinstance(event, yaml.CollectionStartEvent):
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            if event.tag not in (None, "!", _PREFIX + ("map" if is_mapping else "seq")):
                raise _foreign(event.tag)
            if len(self._open) >= MAX_DEPTH:
                raise ValueError(f"it nests more than {MAX_DEPTH} deep")
            self._open.append(_Open({} if is_mapping else [], event.anchor, self._nodes))
            self._count(1)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._open.pop()
            self._add(done.value, done.anchor, self._nodes - done.first)

    def _is_key_next(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and not self._open[-1].has_key

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise ValueError(f"it holds more than {MAX_NODES:,} values")

    def _add(self, value: Any, anchor: str | None, nodes: int) -> None:
        if anchor is not None:
            self._anchored[anchor] = (value, nodes)
        if not self._open:
            self.values.append(value)
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif not parent.has_key:
            if isinstance(value, dict | list):
                raise ValueError("a key is a list or a mapping")
            parent.key, parent.has_key = value, True
        else:
            parent.value[parent.key] = value
            parent.has_key = False

    def _scalar(self, event: yaml.ScalarEvent, *, is_key: bool) -> Any:
        text = event.value
        tag = event.tag
        if tag in (None, "!"):
            if not event.implicit[0] or len(text) > _LONGEST_NUMBER:
                return text
            tag = self._reader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        if tag == _PREFIX + "merge":
            raise ValueError("it has a merge key (<<); write out what it stands for")
        if tag == _PREFIX + "value":  # what YAML 1.1 has for the default of a mapping: PyYAML takes it as a key only
            if is_key:
                return text
            raise ValueError("it has an = that is not text; put it in quotes")
        construct = _SCALARS.get(tag)
        if construct is None:
            raise _foreign(tag)
        if len(text) > _LONGEST_NUMBER and tag not in (_PREFIX + "str", _PREFIX + "binary"):
            raise ValueError("it holds a number of too many digits")
        try:
            return construct(self._reader, yaml.ScalarNode(tag, text))
        except (ValueError, LookupError, AttributeError, OverflowError, yaml.YAMLError) as error:
            raise ValueError(f"{text[:40]!r} is not a {tag.removeprefix(_PREFIX)}") from error


def _foreign(tag: str) -> ForeignObject:
    return ForeignObject(f"it asks for an object by the tag {tag!r:.100}, which is never made")
