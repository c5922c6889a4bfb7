"""SQL that finds versions by an expression, in an order, as many as are wanted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from casstore.catalog import decoding
from casstore.catalog.condition import COLUMNS, FEW, condition_of, glob_in_sql
from casstore.catalog.connection import Connections
from casstore.catalog.query import Expression, Field, SortKey
from casstore.catalog.versions import VersionRow, Versions
from casstore.late_classes import dataclass

MOST = 1 << 62  # versions: SQLite takes no larger limit
_BATCH = 500
_MOST_PATHS = 5_000
_GLOB = frozenset("*?[")
_STANDING = "EXCEPT SELECT version_id FROM trash"


@dataclass(frozen=True, slots=True)
class Search:
    """Which versions are wanted, and in which order.

    `name`: of one model, or a pattern of names. `by_name`: by name before all that `sort` does not decide, else the
    newest first. `up_to`: the row id of the last version that counts.
    """

    name: str | None = None
    expression: Expression | None = None
    sort: tuple[SortKey, ...] = ()
    limit: int | None = None
    by_name: bool = True
    up_to: int | None = None

    @property
    def one_name(self) -> str | None:
        """The name, if it is no pattern."""
        return self.name if self.name is not None and _GLOB.isdisjoint(self.name) else None

    def first(self, count: int) -> Search:
        """The first of what this finds."""
        return dataclasses.replace(self, limit=min(count, MOST if self.limit is None else self.limit))


class _Plan(NamedTuple):
    """Parts of a SELECT of versions; where `few` is false, those that fit the expression are many."""

    where: str
    parameters: tuple[object, ...]
    few: bool


class _Join(NamedTuple):
    """What a key to sort by joins, and the terms that it sorts by."""

    sql: str
    parameters: tuple[object, ...]
    order: tuple[str, ...]


class Searches:
    """Finds versions by expressions."""

    def __init__(self, connections: Connections, versions: Versions) -> None:
        self._connections = connections
        self._versions = versions

    def rows(self, search: Search) -> list[VersionRow]:
        """The versions that are wanted, in their order."""
        with self._connections.read() as connection:
            if not search.sort:
                plan = _plan(connection, search)
                limit = "" if search.limit is None else f" LIMIT {search.limit}"
                where = plan.where.replace("{id}", "v.id")
                return self._versions.found(f"{where}{_order(search, [])}{limit}", plan.parameters)
            ids = ids_of(connection, search)
            found: dict[int, VersionRow] = {}
            for start in range(0, len(ids), _BATCH):
                found.update((row.id, row) for row in self._versions.by_ids(ids[start : start + _BATCH]))
            return [found[each] for each in ids if each in found]

    def count(self, search: Search) -> int:
        """How many versions are wanted; `limit` and `up_to` do not count."""
        with self._connections.read() as connection:
            if search.name is None and search.expression is not None:
                found = condition_of(search.expression, _Known(connection))
                sql, parameters = f"SELECT count(*) FROM (SELECT id FROM ({found.sql}) {_STANDING})", found.parameters
            else:
                plan = _plan(connection, search)
                where = plan.where.replace("{id}", "v.id")
                sql, parameters = f"SELECT count(*) FROM version AS v{where}", plan.parameters
            return decoding.typed(connection.execute(sql, parameters).get, int, "a count")

    def last(self) -> int:
        """The row id of the version that was committed last; 0 where there is none."""
        with self._connections.read() as connection:
            return decoding.typed(connection.execute("SELECT coalesce(max(id), 0) FROM version").get, int, "an id")

    def has(self, field: Field) -> bool:
        """Whether some version has a value at the path of this field."""
        with self._connections.read() as connection:
            return any(
                connection.execute(
                    f"SELECT 1 FROM {table} WHERE {column} = ? AND version_id NOT IN (SELECT version_id FROM trash)"
                    " LIMIT 1",
                    (path,),
                ).fetchone()
                for table, column, path in _places(field)
            )

    def paths(self, root: str) -> list[str]:
        """The paths below `labels` or `metadata` that versions have, also those in the trash: so many at most."""
        table, column, _ = _places(Field(root, ""))[0]
        # Each is found by the index, from the one before it: there may be millions of rows, and few paths.
        sql = (
            f"WITH RECURSIVE found(path) AS (SELECT min({column}) FROM {table} UNION ALL"
            f" SELECT (SELECT min({column}) FROM {table} WHERE {column} > path) FROM found WHERE path IS NOT NULL)"
            f" SELECT path FROM found WHERE path IS NOT NULL LIMIT {_MOST_PATHS}"
        )
        with self._connections.read() as connection:
            return [decoding.typed(row[0], str, "a path") for row in connection.execute(sql)]

    def aliases(self, ids: Iterable[int]) -> dict[int, list[str]]:
        """The aliases of these versions."""
        sql = "SELECT version_id, alias FROM alias WHERE version_id IN (SELECT value FROM json_each(?)) ORDER BY alias"
        found: dict[int, list[str]] = {}
        with self._connections.read() as connection:
            for version_id, alias in connection.execute(sql, (json.dumps(list(ids)),)):
                found.setdefault(version_id, []).append(decoding.typed(alias, str, "an alias"))
        return found

    def pinned(self, ids: Iterable[int]) -> set[int]:
        """Those of these versions that are pinned."""
        sql = "SELECT id FROM version WHERE id IN (SELECT value FROM json_each(?)) AND pinned"
        with self._connections.read() as connection:
            return {row[0] for row in connection.execute(sql, (json.dumps(list(ids)),))}


def _places(field: Field) -> list[tuple[str, str, str]]:
    """The tables, columns and values of the rows that say that a version has a field with a path."""
    path = str(field.path)
    if field.root == "labels":
        return [("label", "key", path)]
    paths = [path] if field.root == "metadata" else [f"{field.root}.{path}", path]
    return [("metadata", "path", each) for each in paths]


class _Known:
    """What the catalog says before an expression is run."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def are_few(self, sql: str, parameters: Sequence[object]) -> bool:
        counting = f"SELECT count(*) FROM ({sql} LIMIT {FEW + 1})"
        return int(self._connection.execute(counting, tuple(parameters)).get) <= FEW

    def has_path(self, path: str) -> bool:
        sql = "SELECT 1 FROM metadata WHERE path = ? LIMIT 1"
        return self._connection.execute(sql, (path,)).fetchone() is not None


def _plan(connection: apsw.Connection, search: Search) -> _Plan:
    """What limits the versions; where their ids stand, the text says {id}."""
    wheres: list[str] = ["{id} NOT IN (SELECT version_id FROM trash)"]
    parameters: list[object] = []
    few = False
    if search.name is not None:
        is_pattern = search.one_name is None
        wheres.append("v.name GLOB ?" if is_pattern else "v.name = ?")
        parameters.append(glob_in_sql(search.name) if is_pattern else search.name)
    if search.expression is not None:
        found = condition_of(search.expression, _Known(connection))
        first = connection.execute(f"SELECT id FROM ({found.sql}) LIMIT {FEW + 1}", found.parameters)
        ids = [row[0] for row in first]
        few = len(ids) <= FEW
        # Of many, SQLite is to walk the order that is wanted, not to look up each.
        wheres.append("{id} IN (SELECT value FROM json_each(?))" if few else f"+{{id}} IN ({found.sql})")
        parameters += [json.dumps(ids)] if few else found.parameters
    if search.up_to is not None:
        wheres.append("+{id} <= ?")
        parameters.append(search.up_to)
    return _Plan(" WHERE " + " AND ".join(wheres), tuple(parameters), few)


def ids_of(connection: apsw.Connection, search: Search) -> list[int]:
    """The row ids of the versions that are wanted, in their order."""
    plan = _plan(connection, search)
    walked = None if plan.few else _walked(connection, search, plan)
    if walked is not None and len(walked) == search.limit:
        return walked
    joins = [_join(connection, key, f"k{number}") for number, key in enumerate(search.sort)]
    where = plan.where.replace("{id}", "v.id")
    sql = f"SELECT v.id FROM version AS v{''.join(join.sql for join in joins)}{where}{_order(search, joins)}"
    parameters = (*(value for join in joins for value in join.parameters), *plan.parameters)
    return _distinct(lambda limit: connection.execute(sql + limit, parameters).fetchall(), search.limit)


def _walked(connection: apsw.Connection, search: Search, plan: _Plan) -> list[int] | None:
    """The first of many, found by walking the numbers of the first key; None where that is not the way."""
    if search.limit is None or not search.sort or search.name is not None:
        return None
    key, *others = search.sort
    path = _only_path(connection, key.field)
    if path is None:
        return None
    where = plan.where.replace("{id}", "k0.version_id")
    joins = [_join(connection, each, f"k{number}") for number, each in enumerate(others, 1)]
    joins.insert(0, _Join("", (path,), (f"k0.value{_direction(key)}",)))
    sql = (
        "SELECT v.id FROM metadata AS k0 CROSS JOIN version AS v ON v.id = k0.version_id"
        f"{''.join(join.sql for join in joins)}{where} AND k0.path = ? AND k0.value < ''{_order(search, joins)}"
    )
    parameters = (*(value for join in joins[1:] for value in join.parameters), *plan.parameters, path)
    return _distinct(lambda most: connection.execute(sql + most, parameters).fetchall(), search.limit)


def _order(search: Search, joins: Sequence[_Join]) -> str:
    name = ["v.name"] if search.by_name else []
    terms = [*(term for join in joins for term in join.order), *name, "v.ordered_at DESC", "v.id DESC"]
    return " ORDER BY " + ", ".join(terms)


def _direction(key: SortKey) -> str:
    return " DESC" if key.descending else ""


def _only_path(connection: apsw.Connection, field: Field) -> str | None:
    """The path of the metadata that a field means in this catalog; None if it means two, or none."""
    if field.root == "metadata":
        return field.path
    if field.root not in ("metrics", "params"):
        return None
    known = _Known(connection)
    paths = [path for path in (f"{field.root}.{field.path}", str(field.path)) if known.has_path(path)]
    return paths[0] if len(paths) == 1 else None


def _join(connection: apsw.Connection, key: SortKey, name: str) -> _Join:
    """How to sort by a key: versions without it last, and of metadata the numbers before the texts."""
    field, direction = key.field, _direction(key)
    if field.root == "tag":
        return _Join("", (), (f"v.name{direction}", f"v.version{direction}"))
    if field.root in ("opened", "base"):
        columns = ("opened_at",) if field.root == "opened" else ("base_name", "base_version")
        return _Join("", (), (f"v.{columns[0]} IS NULL", *(f"v.{column}{direction}" for column in columns)))
    if field.root in COLUMNS:
        return _Join("", (), (f"v.{COLUMNS[field.root]}{direction}",))
    if field.root in ("labels", "alias"):
        table, value = ("label", "value") if field.root == "labels" else ("alias", "alias")
        place = f"{name}.key = ? AND " if field.root == "labels" else ""
        sql = f" LEFT JOIN {table} AS {name} ON {place}{name}.version_id = v.id"
        bound = (field.path,) if field.root == "labels" else ()
        return _Join(sql, bound, (f"{name}.{value} IS NULL", f"{name}.{value}{direction}"))
    path = _only_path(connection, field)
    joined = " LEFT JOIN metadata AS {0} ON {0}.path = ? AND {0}.version_id = v.id"
    sql, value = joined.format(name), f"{name}.value"
    parameters: tuple[object, ...] = (path,)
    if path is None:
        bare = f"{name}b"
        sql += joined.format(bare)
        parameters = (f"{field.root}.{field.path}", field.path)
        value = f"iif({name}.path IS NULL, {bare}.value, {name}.value)"
    return _Join(sql, parameters, (f"{value} IS NULL", f"{value} >= ''", f"{value}{direction}"))


def _distinct(run: Callable[[str], list[Any]], wanted: int | None) -> list[int]:
    """The ids of a SELECT, each once: a version whose key has several values stands where the first of them does."""
    if wanted is None:
        return list(dict.fromkeys(row[0] for row in run("")))
    limit = wanted
    while True:
        rows = run(f" LIMIT {limit}")
        found = list(dict.fromkeys(row[0] for row in rows))
        if len(found) >= wanted or len(rows) < limit:
            return found[:wanted]
        limit *= 4
