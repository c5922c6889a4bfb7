"""SQL for retention: what is known of the versions of a name, and the policies that are stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.events import note_event
from casstore.catalog.sqlite_errors import translated_errors

Range = tuple[float, float]
Rules = dict[str, Any]  # of a policy, as JSON has them


@dataclass(frozen=True, slots=True)
class Wanted:
    """What rules ask of versions. `numbers`: by a name of the caller's, paths in the metadata; the first counts that a
    version has. `labels`: keys. `conditions`: by a name of the caller's, SQL for the row ids of versions, and what is
    bound in it."""

    numbers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: frozenset[str] = frozenset()
    conditions: Mapping[str, tuple[str, Sequence[object]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a version that may be forgotten; `numbers` and `fits` by the names of `Wanted`."""

    id: int
    version: str
    size: int
    created_at_ns: int
    ordered_at_ns: int
    is_pinned: bool
    annotated: str | None = None
    aliases: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Range] = field(default_factory=dict)
    fits: frozenset[str] = frozenset()


class Retention:
    """Reads what rules go by, and keeps policies: JSON by a pattern of names."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def known(self, name: str, wanted: Wanted) -> list[Known]:
        """The versions of a name, of one moment, newest first. Raises CatalogDamaged."""
        with self._connections.read() as connection:
            aliases = _gathered(connection.execute("SELECT version_id, alias FROM alias WHERE name = ?", (name,)))
            labels = _labels(connection, name, wanted.labels)
            numbers = {key: _numbers(connection, name, paths) for key, paths in wanted.numbers.items()}
            fitting = {
                key: {row[0] for row in connection.execute(_FITTING.format(sql), (name, *bound))}
                for key, (sql, bound) in wanted.conditions.items()
            }
            rows: list[Any] = connection.execute(_VERSIONS, (name,)).fetchall()
        found = []
        for version_id, version, size, created_at_ns, ordered_at_ns, pinned, annotated in rows:
            found.append(
                Known(
                    id=decoding.typed(version_id, int, "an id"),
                    version=decoding.tag(name, version).version,
                    size=decoding.typed(size, int, "a size"),
                    created_at_ns=decoding.typed(created_at_ns, int, "a time"),
                    ordered_at_ns=decoding.typed(ordered_at_ns, int, "a time"),
                    is_pinned=bool(pinned),
                    annotated=None if annotated is None else decoding.typed(annotated, str, "what was said later"),
                    aliases=tuple(sorted(aliases.get(version_id, ()))),
                    labels=labels.get(version_id, {}),
                    numbers={key: by_id[version_id] for key, by_id in numbers.items() if version_id in by_id},
                    fits=frozenset(key for key, ids in fitting.items() if version_id in ids),
                )
            )
        return found

    def policies(self) -> dict[str, Rules]:
        """The rules of every policy by its pattern, in the order of these. Raises CatalogDamaged."""
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute("SELECT pattern, rules FROM policy ORDER BY pattern").fetchall()
        return {decoding.typed(pattern, str, "a pattern"): _rules(text) for pattern, text in rows}

    def set_policy(self, pattern: str, rules: Mapping[str, Any] | None) -> bool:
        """Store a policy in place of another of that pattern, or none; False if it was so already."""
        text = None if rules is None else json.dumps(rules, sort_keys=True)
        with self._connections.write() as connection:
            held = connection.execute("SELECT rules FROM policy WHERE pattern = ?", (pattern,)).fetchone()
            if text == (None if held is None else held[0]):
                return False
            if text is None:
                connection.execute("DELETE FROM policy WHERE pattern = ?", (pattern,))
                note_event(connection, "policy unset", None, pattern=pattern)
            else:
                connection.execute("INSERT OR REPLACE INTO policy VALUES (?, ?)", (pattern, text))
                note_event(connection, "policy set", None, pattern=pattern, rules=rules)
            return True

    def restore(self, policies: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in the policies of a store whose catalog is made again."""
        rows = ((pattern, json.dumps(rules, sort_keys=True)) for pattern, rules in policies.items())
        with self._connections.write() as connection:
            connection.executemany("INSERT OR REPLACE INTO policy VALUES (?, ?)", rows)


_VERSIONS = """
SELECT id, version, size, created_at, ordered_at, pinned, annotated FROM version WHERE name = ?
ORDER BY ordered_at DESC, id DESC
"""
# CROSS JOIN: from the versions of the name to their rows. There may be many more versions with that path or label.
_LABELS = """
SELECT version_id, key, value FROM version CROSS JOIN label ON version_id = id
WHERE name = ? AND key IN (SELECT value FROM json_each(?))
"""
_NUMBERS = """
SELECT version_id, min(value), max(value) FROM version CROSS JOIN metadata ON version_id = id
WHERE name = ? AND path = ? AND typeof(value) IN ('integer', 'real') GROUP BY version_id
"""
_FITTING = "SELECT id FROM version WHERE name = ? AND id IN ({})"


def _rules(text: Any) -> Rules:
    try:
        return decoding.typed(json.loads(decoding.typed(text, str, "a policy")), dict, "a policy")
    except (ValueError, RecursionError) as error:
        raise decoding.malformed(f"a policy is {text!r:.60}") from error


def _gathered(rows: Iterable[Any]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for version_id, text in rows:
        found.setdefault(version_id, []).append(decoding.typed(text, str, "an alias"))
    return found


def _labels(connection: apsw.Connection, name: str, keys: frozenset[str]) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    if keys:
        for version_id, key, value in connection.execute(_LABELS, (name, json.dumps(sorted(keys)))):
            found.setdefault(int(version_id), {})[str(key)] = decoding.typed(value, str, "a label")
    return found


def _numbers(connection: apsw.Connection, name: str, paths: Sequence[str]) -> dict[int, Range]:
    """By version, the least and the largest number at the first of the paths that it has a number at."""
    found: dict[int, Range] = {}
    for path in reversed(paths):
        found.update((row[0], (row[1], row[2])) for row in connection.execute(_NUMBERS, (name, path)))
    return found
