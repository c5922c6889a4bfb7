"""Expressions as SQL: each is a SELECT of the row ids of the versions that fit.

A comparison is one such SELECT, over one table and by an index. What joins comparisons is INTERSECT, UNION and EXCEPT,
which SQLite does by merging where both sides come in the order of ids. There is no subquery that runs once for each
version: SQLite may walk a whole index in each. All that a user has typed is bound, never part of the SQL.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from casstore.catalog.query import (
    MOST_NS,
    AllOf,
    Comparison,
    Expression,
    Field,
    Flag,
    Not,
    Number,
    OneOf,
    Text,
    Value,
    parse,
    span_ns,
)
from casstore.digest import DIGEST_BYTES

FEW = 5_000  # ids that are sorted sooner than all values of a path are read in the order of ids
_MOST_TERMS = 100  # of one compound SELECT: SQLite takes 500
_MOST_ASKED = 32  # comparisons of one expression that are counted before it is run
_NS = 1_000_000_000
_EVERY = "SELECT id FROM version"

_COLUMNS = {
    "tag": "(name || ':' || version)", "name": "name", "version": "version", "size": "size", "files": "file_count",
    "created": "created_at", "opened": "opened_at", "pinned": "pinned",
    "base": "(base_name || ':' || base_version)", "digest": "lower(hex(digest))",
}  # fmt: skip
COLUMNS = {**_COLUMNS, "digest": "digest"}  # to sort by


class Condition(NamedTuple):
    """A SELECT of the ids of the versions that fit, and what is bound in it: `WHERE id IN ({sql})`.

    Versions in the trash may be among them. `few`: there are at most some thousands, as far as has been counted.
    """

    sql: str
    parameters: tuple[object, ...]
    few: bool = False
    is_compound: bool = False

    @property
    def _operand(self) -> str:
        return f"SELECT id FROM ({self.sql})" if self.is_compound else self.sql


class Known(Protocol):
    """What can be asked of a catalog before an expression is run there."""

    def are_few(self, sql: str, parameters: Sequence[object]) -> bool:
        """Whether a SELECT gives at most FEW rows."""

    def has_path(self, path: str) -> bool:
        """Whether some version has metadata of this path."""


def compile(text: str, *, now_ns: int | None = None) -> Condition:  # noqa: A001 - that is what it does
    """An expression as SQL; `now_ns` is when ages are told. Raises InvalidQuery."""
    return condition_of(parse(text), now_ns=now_ns)


def condition_of(expression: Expression, known: Known | None = None, *, now_ns: int | None = None) -> Condition:
    """The SQL of a tree. With what is `known` of the catalog it is the same set, found sooner."""
    return _Compiler(known, time.time_ns() if now_ns is None else now_ns).condition(expression)


def glob_in_sql(pattern: str) -> str:
    """A pattern as SQLite's GLOB takes it: there, a set of characters is negated by ^."""
    return pattern.replace("[!", "[^")


class _Test(NamedTuple):
    """A test of a value, in which {v} stands for the value."""

    sql: str
    parameters: tuple[object, ...] = ()


class _Compiler:
    def __init__(self, known: Known | None, now_ns: int) -> None:
        self._known = known
        self._now_ns = now_ns
        self._asked = 0

    def condition(self, expression: Expression) -> Condition:
        if isinstance(expression, AllOf):
            fitting = [self.condition(part) for part in expression.parts if not isinstance(part, Not)]
            others = [self.condition(part.part) for part in expression.parts if isinstance(part, Not)]
            return self._except(_joined(" INTERSECT ", fitting or [Condition(_EVERY, ())]), others)
        if isinstance(expression, OneOf):
            return _joined(" UNION ", [self.condition(part) for part in expression.parts])
        if isinstance(expression, Not):
            return self._except(Condition(_EVERY, ()), [self.condition(expression.part)])
        return self._comparison(expression)

    @staticmethod
    def _except(of: Condition, others: Sequence[Condition]) -> Condition:
        return _joined(" EXCEPT ", [of, _joined(" UNION ", others)]) if others else of

    def _comparison(self, comparison: Comparison) -> Condition:
        field = comparison.field
        if field.root in _COLUMNS:
            tests = self._column_tests(comparison)
            column = _COLUMNS[field.root]
            text = " OR ".join(f"({test.sql.format(v=column)})" for test in tests)
            return Condition(f"{_EVERY} WHERE {text}", _parameters(tests))
        if comparison.operator in ("!=", "not in"):
            positive = Comparison(field, "=" if comparison.operator == "!=" else "in", comparison.values)
            return self._except(self._comparison(Comparison(field, "exists")), [self._comparison(positive)])
        test = _test_of_values(comparison)
        if field.root == "alias":
            return self._rows("alias", _Test("1"), "alias", test)
        path = field.path or ""
        if field.root == "labels":
            return self._rows("label", _Test("key = ?", (path,)), "value", test)
        if field.root == "metadata":
            return self._metadata(path, test)
        return self._nested(field.root, path, test)

    def _nested(self, root: str, name: str, test: _Test) -> Condition:
        """What is recorded below `root` in the metadata, or under the bare name where that is absent there."""
        full = f"{root}.{name}"
        nested = self._metadata(full, test)
        if self._known is not None and not self._known.has_path(name):
            return nested
        bare = self._metadata(name, test)
        if self._known is None or self._known.has_path(full):
            bare = self._except(bare, [self._metadata(full, _Test("1"))])
        return _joined(" UNION ", [nested, bare])

    def _metadata(self, path: str, test: _Test) -> Condition:
        return self._rows("metadata", _Test("path = ?", (path,)), "value", test)

    def _rows(self, table: str, place: _Test, column: str, test: _Test) -> Condition:
        """The versions that have such a row. What is few is found by its value, else it is read in order of ids."""
        select = f"SELECT version_id AS id FROM {table} WHERE {place.sql} AND "
        parameters = (*place.parameters, *test.parameters)
        by_value = select + test.sql.format(v=column)
        self._asked += 1
        few = self._known is not None and self._asked <= _MOST_ASKED and self._known.are_few(by_value, parameters)
        # A plus keeps SQLite from the index by value, whose ids come in no order. Of one value they do.
        is_ordered = few or test.sql == _EQUAL
        return Condition(by_value if is_ordered else select + test.sql.format(v=f"+{column}"), parameters, few)

    def _column_tests(self, comparison: Comparison) -> list[_Test]:
        """Tests of a version's own column, of which one must hold."""
        field, operator = comparison.field, comparison.operator
        if field.kind == "time":
            return self._time_tests(operator, comparison.values)
        if operator == "exists":
            return [_Test("{v} IS NOT NULL")]
        if field.root == "digest" and operator in ("=", "in"):
            digests = [_digest(value.text) for value in comparison.values]
            return [_Test(f"digest IN ({_marks(digests)})", tuple(digests))]
        values = tuple(_plain(field, value) for value in comparison.values)
        if operator in ("in", "not in"):
            return [_Test(f"{{v}} {operator.upper()} ({_marks(values)})", values)]
        if operator == "~":
            return [_Test("{v} GLOB ?", (glob_in_sql(str(values[0])),))]
        return [_Test(f"{{v}} {operator.upper()} ?", values)]

    def _time_tests(self, operator: str, values: Sequence[Value]) -> list[_Test]:
        if operator == "exists":
            return [_Test("{v} IS NOT NULL")]
        if isinstance(values[0], Number):  # an age, which is the larger the earlier the time is
            then = max(-MOST_NS, min(self._now_ns - int(min(values[0].amount * _NS, MOST_NS)), MOST_NS))
            return [_Test(f"{{v}} {operator.translate(_MIRRORED)} ?", (then,))]
        spans = [span_ns(value.text) or (0, 0) for value in values]
        begin, end = spans[0]
        if operator in ("=", "in"):
            return [_Test("{v} >= ? AND {v} < ?", span) for span in spans]
        if operator in ("!=", "not in"):
            outside = " AND ".join(["({v} < ? OR {v} >= ?)"] * len(spans))
            return [_Test(outside, tuple(each for span in spans for each in span))]
        limit = {"<": ("<", begin), "<=": ("<", end), ">": (">=", end), ">=": (">=", begin)}[operator]
        return [_Test(f"{{v}} {limit[0]} ?", (limit[1],))]


_EQUAL = "{v} = ?"
_MIRRORED = str.maketrans("<>", "><")


def _test_of_values(comparison: Comparison) -> _Test:
    """A test of a label, an alias or a value of the metadata: numbers are compared with numbers, text with text."""
    operator, field = comparison.operator, comparison.field
    if operator == "exists":
        return _Test("1")
    if operator in ("=", "in"):
        wanted = [each for value in comparison.values for each in _equals(field, value)]
        return _Test(_EQUAL if len(wanted) == 1 else f"{{v}} IN ({_marks(wanted)})", tuple(wanted))
    value = _plain(field, comparison.values[0])
    if operator in ("~", "like"):
        pattern = glob_in_sql(str(value)) if operator == "~" else value
        return _Test(f"{{v}} >= '' AND {{v}} {'GLOB' if operator == '~' else 'LIKE'} ?", (pattern,))
    # SQLite takes any text as larger than any number, and '' is the least text.
    if isinstance(value, str):
        return _Test(f"{{v}} {operator} ?" + (" AND {v} >= ''" if operator.startswith("<") else ""), (value,))
    return _Test(f"{{v}} {operator} ?" + (" AND {v} < ''" if operator.startswith(">") else ""), (value,))


def _equals(field: Field, value: Value) -> tuple[object, ...]:
    """All that a value is equal to: a number with a unit may also be text that looks so, such as "7b"."""
    plain = _plain(field, value)
    is_other_text = isinstance(value, Number) and (value.unit or abs(value.amount) >= 1 << 63)
    return (plain, value.text) if field.kind == "any" and is_other_text else (plain,)


def _plain(field: Field, value: Value) -> object:
    if isinstance(value, Text) or field.kind == "text":
        return value.text.lower() if field.root == "digest" else value.text
    return value.value if isinstance(value, Flag) else value.amount


def _digest(text: str) -> bytes:
    """The bytes of a digest in hexadecimal; none where it is no digest, which fits no version."""
    is_digest = re.fullmatch(rf"[0-9a-fA-F]{{{2 * DIGEST_BYTES}}}", text) is not None
    return bytes.fromhex(text) if is_digest else b""


def _parameters(tests: Sequence[_Test]) -> tuple[object, ...]:
    """What is bound in the tests, as often as each has a mark."""
    found: list[object] = []
    for test in tests:
        found += test.parameters
    return tuple(found)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _joined(operator: str, parts: Sequence[Condition]) -> Condition:
    """Several as one. What is few comes first in an INTERSECT, and no compound SELECT has too many terms."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) > _MOST_TERMS:
        groups = [parts[start : start + _MOST_TERMS] for start in range(0, len(parts), _MOST_TERMS)]
        return _joined(operator, [_joined(operator, group) for group in groups])
    if operator == " INTERSECT ":
        parts = sorted(parts, key=lambda part: not part.few)
    few = {" INTERSECT ": any, " UNION ": all}.get(operator, lambda each: next(iter(each)))
    return Condition(
        operator.join(part._operand for part in parts),
        tuple(value for part in parts for value in part.parameters),
        few(part.few for part in parts),
        is_compound=True,
    )
