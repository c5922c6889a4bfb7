"""SQL over events: what has been done to the store, and by whom. Only the newest are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import apsw

from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.sqlite_errors import translated_errors
from casstore.storage.machine import who

MOST_EVENTS = 100_000
_TRIMMED_EVERY = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_COLUMNS = "SELECT number, happened_at, actor, kind, tag, details FROM event"


class Event(NamedTuple):
    """Something that was done to the store, or to a version: see `Store.events`.

    Attributes
    ----------
    number
        Later events have larger numbers, whatever the clocks say.
    happened_at_ns
        When it was done, in nanoseconds of UTC.
    actor
        Who did it, as user@host: what the system said, for people to read.
    kind
        What was done, such as "saved", "deleted" or "gc".
    tag
        The tag, or `name@alias`; None where it concerns the store as a whole.
    details
        What else is known, in JSON's types.
    """

    number: int
    happened_at_ns: int
    actor: str
    kind: str
    tag: str | None
    details: dict[str, Any]

    @property
    def happened_at(self) -> datetime:
        """When it was done, in UTC, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.happened_at_ns // 1000)


class Noted(NamedTuple):
    """What is to be noted by the transaction that does it: an event's kind and details."""

    kind: str
    details: Mapping[str, object] = {}


SAVED, DELETED = Noted("saved"), Noted("deleted")


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
        """Note what has been done; nothing in a store that can only be read."""
        if self._connections.read_only:
            return
        with self._connections.write() as connection:
            note_event(connection, kind, tag, **details)

    def newest(self, count: int = MOST_EVENTS, *, after: int = 0, since_ns: int = 0) -> list[Event]:
        """The newest events, so many at most, of those after that number and since that time; the oldest first."""
        # A clock may have jumped, so the order of times says nothing.
        sql = f"{_COLUMNS} WHERE number > ? AND happened_at >= ? ORDER BY number DESC LIMIT ?"
        with translated_errors(self._connections.path):
            rows = self._connections.get().execute(sql, (after, since_ns, count)).fetchall()
        return [_event(row) for row in reversed(rows)]

    def last_number(self) -> int:
        """The number of the last event; 0 where there is none."""
        with translated_errors(self._connections.path):
            found = self._connections.get().execute("SELECT max(number) FROM event").get
        return 0 if found is None else decoding.typed(found, int, "the number of an event")

    def state(self) -> tuple[object, ...]:
        """A value that is another one whenever there may be new events, for one of this thread's connections."""
        connection = self._connections.get()
        with translated_errors(self._connections.path):
            # data_version tells of the changes of others alone.
            return connection, connection.execute("PRAGMA data_version").get, connection.total_changes()


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
