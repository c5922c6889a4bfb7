"""SQL over events: what has been done to the store, and by whom. Only the newest are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.sqlite_errors import translated_errors
from casstore.storage.machine import who

MOST_EVENTS = 100_000
_TRIMMED_EVERY = 1000


class Event(NamedTuple):
    """Something that was done: `tag` is a tag, `name@alias`, or None where it concerns the store as a whole."""

    number: int
    happened_at_ns: int
    actor: str
    kind: str
    tag: str | None
    details: dict[str, Any]


def note_event(connection: apsw.Connection, kind: str, tag: object = None, **details: object) -> None:
    """Note in the transaction that does it what is done, such as "saved" or "alias moved". Values are JSON's types."""
    connection.execute(
        "INSERT INTO event(happened_at, actor, kind, tag, details) VALUES (?, ?, ?, ?, ?)",
        (time.time_ns(), who(), kind, None if tag is None else str(tag), json.dumps(details)),
    )
    number = connection.last_insert_rowid()
    if number % _TRIMMED_EVERY == 0:
        connection.execute("DELETE FROM event WHERE number <= ?", (number - MOST_EVENTS,))


class Events:
    """Reads events, and notes those that belong to no other transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def note(self, kind: str, tag: object = None, **details: object) -> None:
        """Note what has been done."""
        with self._connections.write() as connection:
            note_event(connection, kind, tag, **details)

    def after(self, number: int = 0, since_ns: int = 0) -> Iterator[Event]:
        """The events after that number and since that time, the oldest first."""
        sql = (
            "SELECT number, happened_at, actor, kind, tag, details FROM event"
            " WHERE number > ? AND happened_at >= ? ORDER BY number"
        )
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute(sql, (number, since_ns)).fetchall()
        return map(_event, rows)


def _event(row: Any) -> Event:
    number, happened_at_ns, actor, kind, tag, details = row
    try:
        parsed = json.loads(decoding.typed(details, str, "the details of an event"))
    except (ValueError, RecursionError) as error:
        raise decoding.malformed(f"its record of event {number} has impossible values") from error
    return Event(
        decoding.typed(number, int, "the number of an event"),
        decoding.typed(happened_at_ns, int, "the time of an event"),
        decoding.typed(actor, str, "who did something"),
        decoding.typed(kind, str, "the kind of an event"),
        None if tag is None else decoding.typed(tag, str, "the tag of an event"),
        decoding.typed(parsed, dict, "the details of an event"),
    )
