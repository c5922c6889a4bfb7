"""Searches: the language, and that what SQL finds is what each version on its own would say."""

from __future__ import annotations

import copy
import fnmatch
import math
import pickle
import random
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import casstore
from casstore.catalog import condition, query, search
from casstore.catalog.connection import Connections
from casstore.catalog.query import AllOf, Comparison, Expression, Field, Flag, Not, Number, OneOf, Text
from casstore.catalog.schema import MIGRATIONS
from casstore.catalog.versions import Versions

VERSIONS = 40
NUMBERS = ("0", "1", "-1", "0.5", "3", "2.5e-1", "1KB", "7d")
TEXTS = ("", "a", "B", "it's", 'say "x"', "3", "7d", "%_", "*", "žluť", "prod", "dev")
KEYS = ("acc", "loss", "a.b", "my key", 'q"', "it's", "deep", "list", "", "é")


def scalar(rng: random.Random) -> Any:
    numbers = (0, 1, -1, 0.5, 3, 0.25, 1000, 604_800, True, False, None, math.nan, math.inf, 2**70, -(2**65))
    return rng.choice([*numbers, *TEXTS])


def metadata(rng: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {key: scalar(rng) for key in KEYS if rng.random() < 0.5}
    made["metrics"] = {key: scalar(rng) for key in ("acc", "loss", "f1") if rng.random() < 0.6}
    made["params"] = {"acc": {"deep": scalar(rng)}, "lr": scalar(rng)}
    made["a"] = {"b": scalar(rng)}
    made["list"] = [scalar(rng) for _ in range(rng.randrange(4))]
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[casstore.Store]:
    rng = random.Random(16)
    with casstore.Store(tmp_path_factory.mktemp("search") / "home", auto_gc=False) as made:
        for number in range(VERSIONS):
            labels = {key: rng.choice(TEXTS) for key in ("stage", "a.b", "it's") if rng.random() < 0.6}
            tag = f"{rng.choice(['bert', 'gpt', 'run-1', 'run-2'])}:v{number}"
            base = rng.choice(made.tags()) if number else None
            with made.create(
                tag, labels=labels, metadata=metadata(rng), base=base, durability="relaxed", materialize=False
            ) as draft:
                for each in range(rng.randrange(1, 3)):
                    Path(draft.path, f"w{each}").write_bytes(rng.randbytes(rng.choice([10, 500, 2000])))
        for tag in rng.sample(made.tags(), 5):
            made.pin(tag)
        for tag in rng.sample(made.tags(), 6):
            assert made.get(tag).path
        say(made, "INSERT OR IGNORE INTO alias SELECT name, 'prod' || id % 3, id, 1, 0 FROM version WHERE id % 5 = 0")
        yield made


def say(store: casstore.Store, sql: str) -> list[Any]:
    connection = apsw.Connection(str(store.home / "catalog.db"))
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# What each version on its own would say, in Python.


def flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(f"{path}.{key}" if path else key, item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat(path, item)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        yield path, str(value)
    else:
        yield path, None if isinstance(value, float) and math.isnan(value) else value


def values(facts: dict[str, Any], field: Field) -> list[Any]:
    """What the field has: no item where the version has none; None is there, and fits nothing."""
    if field.root in ("labels", "metadata"):
        return [value for path, value in facts[field.root] if path == field.path]
    if field.root in ("metrics", "params"):
        nested = [value for path, value in facts["metadata"] if path == f"{field.root}.{field.path}"]
        return nested or [value for path, value in facts["metadata"] if path == field.path]
    found = facts[field.root]
    return found if isinstance(found, list) else [] if found is None else [found]


def fits(facts: dict[str, Any], tree: Expression) -> bool:
    if isinstance(tree, AllOf):
        return all(fits(facts, part) for part in tree.parts)
    if isinstance(tree, OneOf):
        return any(fits(facts, part) for part in tree.parts)
    if isinstance(tree, Not):
        return not fits(facts, tree.part)
    found = values(facts, tree.field)
    if tree.operator == "exists":
        return bool(found)
    if tree.operator in ("!=", "not in"):
        return bool(found) and not any(equal(tree.field, each, wanted) for each in found for wanted in tree.values)
    if tree.operator in ("=", "in"):
        return any(equal(tree.field, each, wanted) for each in found for wanted in tree.values)
    return any(compared(tree, each, tree.values[0]) for each in found)


def plain(field: Field, value: query.Value) -> Any:
    if isinstance(value, Text) or field.kind == "text":
        return value.text
    return value.value if isinstance(value, Flag) else value.amount


def equal(field: Field, value: Any, wanted: query.Value) -> bool:
    if field.kind == "any" and isinstance(wanted, Number) and wanted.unit and value == wanted.text:
        return True
    return is_text(value) == is_text(plain(field, wanted)) and value is not None and value == plain(field, wanted)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def compared(tree: Comparison, value: Any, wanted: query.Value) -> bool:
    other = plain(tree.field, wanted)
    if tree.field.kind == "time":
        value, other = time.time_ns() - value, other * 10**9
    if value is None or is_text(value) != is_text(other):
        return False
    if tree.operator == "~":
        return re.fullmatch(fnmatch.translate(other), value) is not None
    if tree.operator == "like":
        pattern = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in other)
        return re.fullmatch(pattern, value, re.DOTALL | re.IGNORECASE | re.ASCII) is not None
    signs = {"<": value < other, "<=": value <= other, ">": value > other, ">=": value >= other}
    return bool(signs[tree.operator])


@pytest.fixture(scope="module")
def facts(store: casstore.Store) -> dict[str, dict[str, Any]]:
    rows = say(store, "SELECT name || ':' || version, created_at, opened_at, pinned, id FROM version")
    aliases = say(store, "SELECT version_id, alias FROM alias")
    made = {}
    for tag, created, opened, pinned, row_id in rows:
        model = store.get(tag)
        made[tag] = {
            "tag": tag, "name": model.name, "version": model.version, "size": model.size, "files": model.file_count,
            "created": created, "opened": opened, "pinned": bool(pinned), "digest": str(model.digest),
            "base": None if model.base is None else str(model.base.tag),
            "alias": [alias for version, alias in aliases if version == row_id],
            "labels": list(model.labels.items()), "metadata": list(flat("", model.metadata)),
        }  # fmt: skip
    return made


# Trees, of which each means something.

PATHS = st.sampled_from([*KEYS, "metrics.acc", "a.b", "acc.deep", "stage", "lr", "nothing"])
FIELDS = st.one_of(
    st.sampled_from(["name", "version", "tag", "size", "files", "created", "opened", "pinned", "base", "alias"]).map(
        Field
    ),
    st.builds(Field, st.sampled_from(["labels", "metadata", "metadata", "metrics", "metrics", "params"]), PATHS),
)
TEXT_VALUES = st.sampled_from([*TEXTS, "bert", "run-1", "v1", "prod0", "v1*", "r%", "[!a-m]*", "?"]).map(Text)
NUMBER_VALUES = st.sampled_from(NUMBERS).map(Number)
VALUES = {
    "text": TEXT_VALUES | NUMBER_VALUES, "any": TEXT_VALUES | NUMBER_VALUES | st.booleans().map(Flag),
    "bytes": st.sampled_from(["500", "0.5KB", "2000B", "0", "1GiB"]).map(Number),
    "count": st.sampled_from(["1", "2", "1.5"]).map(Number),
    "time": st.sampled_from(["1h", "0s", "1e-9s", "2y"]).map(Number),
    "flag": st.booleans().map(Flag),
}  # fmt: skip


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    field = draw(FIELDS)
    kind = field.kind
    ordering = ["<", "<=", ">", ">="]
    operators = {
        "text": [*ordering, "=", "!=", "in", "not in", "~", "like"], "any": [*ordering, "=", "!=", "in", "~", "like"],
        "flag": ["=", "!="], "time": ordering,
    }.get(kind, [*ordering, "=", "!=", "in", "not in"])  # fmt: skip
    operator = draw(st.sampled_from([*operators, "exists"]))
    if operator == "exists":
        return Comparison(field, operator)
    wanted = VALUES[kind]
    if operator in ("~", "like") or (kind == "text" and operator in ordering):
        wanted = TEXT_VALUES
    elif kind == "any" and operator in ordering:
        wanted = TEXT_VALUES | NUMBER_VALUES
    most = 3 if operator.endswith("in") else 1
    return Comparison(field, operator, tuple(draw(st.lists(wanted, min_size=1, max_size=most))))


def joined(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(parts, min_size=2, max_size=3)
    return several.map(query.all_of) | several.map(query.any_of) | parts.map(Not)


TREES = st.recursive(comparisons(), joined, max_leaves=6)


@given(TREES)
@settings(max_examples=100, deadline=None)
def test_a_tree_that_is_written_and_read_is_the_same(tree: Expression) -> None:
    assert query.parse(str(tree)) == tree


@pytest.mark.parametrize("few", [0, 5000])
@given(tree=TREES, key=st.builds(query.SortKey, FIELDS, st.booleans()), limit=st.none() | st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_sql_finds_what_each_version_says(
    store: casstore.Store, facts: dict[str, Any], few: int, tree: Expression, key: query.SortKey, limit: int | None
) -> None:
    """Whether SQLite is led to look up each version that fits, or to walk an index: the same is found."""
    with mock.patch.object(search, "FEW", few):
        check(store, facts, tree, key, limit)


@pytest.mark.parametrize("few", [0, 5000])
@pytest.mark.parametrize(
    "key", ["metadata.list", "-metadata.list", "alias", "-metadata.a.b", "metrics.acc", "params.lr"]
)
def test_a_version_of_several_values_is_listed_once(
    store: casstore.Store, facts: dict[str, Any], key: str, few: int
) -> None:
    """In its first place; and the first versions are as many as are asked for."""
    (wanted,) = query.parse_sort(key)
    with mock.patch.object(search, "FEW", few):
        for limit in (1, 3, 10, 39):
            check(store, facts, query.parse("size > 0"), wanted, limit)


def check(
    store: casstore.Store, facts: dict[str, Any], tree: Expression, key: query.SortKey, limit: int | None
) -> None:
    expected = sorted(tag for tag, each in facts.items() if fits(each, tree))
    assert sorted(str(model.tag) for model in store.list(where=str(tree))) == expected
    assert store.count(where=str(tree)) == len(expected)
    found = condition.compile(str(tree))
    connection = apsw.Connection(str(store.home / "catalog.db"))
    sql = f"SELECT name || ':' || version FROM version WHERE id IN ({found.sql})"
    assert sorted(row[0] for row in connection.execute(sql, found.parameters)) == expected
    connection.close()
    ordered = store.list(where=str(tree), sort=str(key), limit=limit)
    places = [place(values(facts[str(model.tag)], key.field), key.descending) for model in ordered]
    assert places == sorted(places)
    rest = {str(model.tag) for model in store.list(where=str(tree))} - {str(model.tag) for model in ordered}
    assert len(ordered) == min(len(expected), len(expected) if limit is None else limit)
    if places and rest:
        assert max(places) <= min(place(values(facts[tag], key.field), key.descending) for tag in rest)


def place(found: list[Any], descending: bool) -> tuple[int, Any]:
    """What a version is sorted by: numbers, then texts, then nothing; of several values the one that comes first."""
    numbers = [-value if descending else value for value in found if isinstance(value, int | float)]
    texts = [text_place(value, descending) for value in found if isinstance(value, str)]
    return (0, min(numbers)) if numbers else (1, min(texts)) if texts else (2, 0)


def text_place(text: str, descending: bool) -> tuple[int, ...]:
    return (*(-ord(c) for c in text), 1) if descending else (*map(ord, text), -1)


# What is typed, and what is said of it.


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("", "the expression is empty", 0),
        ("metrics.acc >", "expected a value after '>', not the end", 13),
        ("metrics.acc > and x = 1", "expected a value after '>', not 'and'", 14),
        ("lable.x = 3", "did you mean labels.KEY?", 0),
        ("sise > 3", "did you mean size?", 0),
        ("size > 1 and acc > 3", "but versions have metadata.acc; did you mean that?", 13),
        ("size > 1 and zzz > 3", "did you mean metrics.zzz, metadata.zzz or labels.zzz?", 13),
        ("(size > 1", "expected and, or, or ')', not the end", 9),
        ("size > 1)", "expected and, or, or the end, not ')'", 8),
        ("size > 1 && files = 1", "'&&' is written 'and' here", 9),
        ("size <> 1", "'<>' is written '!=' here", 5),
        ("name = 'abc", "a quote is not closed", 7),
        ("metadata..a = 1", "a part of the path is missing", 9),
        ("labels = 3", "labels has many values; say which one, as labels.KEY", 0),
        ("name.x = 3", "name has nothing below it", 0),
        ("metrics.acc", "expected a comparison after 'metrics.acc'", 11),
        ("metrics.acc and size > 1", "expected a comparison after 'metrics.acc'", 12),
        ("metrics.acc not 3", "expected in, not '3'", 16),
        ("name in a", "expected '(' and values, not 'a'", 8),
        ("name in (a b)", "expected ',' or ')', not 'b'", 11),
        ("name in ()", "expected a value after '(', not ')'", 9),
        ("labels.step > 3", "labels.step is text, which is neither more nor less than 3", 14),
        ("name > true", "name is text, which is neither more nor less than true", 7),
        ("metrics.ok < true", "true and false are neither more nor less than anything", 13),
        ("size > 3d", "size is compared with bytes", 7),
        ("size = big", "size is compared with bytes", 7),
        ("files > 3MB", "files is compared with a number", 8),
        ("created > 5", "created is compared with an age", 10),
        ("created > 2026-13-01", "created is compared with an age", 10),
        ("created = 7d", "an age is compared with < or >", 10),
        ("pinned = 3", "pinned is true or false", 9),
        ("pinned < true", "pinned is true or false", 9),
        ("size ~ '1*'", "size is no text, which is what '~' is for", 7),
        ("= 3", "expected a field, such as metrics.acc, not '='", 0),
        ("'name' = 3", "expected a field", 0),
        ("and = 3", "expected a field", 0),
        ("name = a\0b", "this character cannot be looked for", 8),
        ("name = a\ud800b", "this character cannot be looked for", 8),
    ],
)
def test_errors_show_the_place(store: casstore.Store, text: str, message: str, at: int) -> None:
    with pytest.raises(casstore.InvalidQuery) as caught:
        store.list(where=text)
    error = caught.value
    assert message in error.reason
    assert "\n" not in error.reason
    shown, caret = error.excerpt.split("\n")
    assert len(caret) - 3 == at or "\\" in shown
    assert str(error) == f"{error.reason}\n{error.excerpt}"


def test_errors_in_long_expressions_show_a_part_of_them(store: casstore.Store) -> None:
    text = "size > 1 or " * 300 + "sise > 2" + " or size > 1" * 300
    with pytest.raises(casstore.InvalidQuery) as caught:
        store.count(where=text)
    shown, caret = caught.value.excerpt.split("\n")
    assert len(shown) < 80
    assert shown[caret.index("^") :].startswith("sise")
    assert caught.value.suggestion == "size"


@pytest.mark.parametrize(
    "text",
    ["(" * 60 + "size > 1" + ")" * 60, "not " * 60 + "size > 1", "((not " * 2000, "x" * 10_001, "(" * 10_000],
    ids=["parentheses", "nots", "both", "long", "only parentheses"],
)
def test_what_nests_too_deep_or_is_too_long_is_refused(store: casstore.Store, text: str) -> None:
    with pytest.raises(casstore.InvalidQuery, match=r"more than 50|at most|has 10,000"):
        store.list(where=text)


@pytest.mark.parametrize(
    ("text", "finds_all"),
    [
        (" or ".join(["files = 1"] * 700), False),
        (" or ".join(["metrics.acc exists"] * 450), False),
        (" and ".join(["files < 9"] * 700), True),
        (" and ".join(["not metrics.x > 1"] * 450), True),
        ("version in (" + ",".join(f"v{n}" for n in range(1700)) + ")", True),
        ("not " * 50 + "files > 0", True),
        ("(" * 50 + "files > 0" + ")" * 50, True),
        ("(not (name = a or " * 12 + "files > 0" + "))" * 12, True),
        ("labels.stage = '" + "x" * 9_000 + "' or files > 0", True),
    ],
    ids=["or", "or of metrics", "and", "and not", "in", "nots", "parentheses", "mixed", "long text"],
)
def test_large_expressions_are_run(store: casstore.Store, text: str, finds_all: bool) -> None:
    assert len(text) <= 10_000
    found = store.count(where=text)
    assert found == VERSIONS if finds_all else 0 < found < VERSIONS


@pytest.mark.parametrize(
    "text",
    ["'; DROP TABLE version; --", "' OR 1=1 --", "x') UNION SELECT 1 --", '"; DELETE FROM version', "{v}", "?1", "%s"],
)
def test_sql_in_text_is_text(store: casstore.Store, text: str) -> None:
    quoted = query.quoted(text)
    for where in (
        f"name = {quoted}", f"labels.{quoted} = {quoted}", f"metadata.{quoted} ~ {quoted}", f"alias in ({quoted})",
        f"metrics.{quoted} < {quoted}", f"base like {quoted}", f"digest = {quoted}",
    ):  # fmt: skip
        assert store.list(where=where, sort=f"-metrics.{quoted},labels.{quoted}") == []
    assert store.count() == VERSIONS


def test_dates_are_spans_of_local_time(store: casstore.Store) -> None:
    today = time.strftime("%Y-%m-%d")
    assert store.count(where=f"created = {today} or created < 1h") == VERSIONS
    assert store.count(where="created >= 2001-01-01 and created < 9999-12-31T23:59:59.999999Z") == VERSIONS
    assert store.count(where="created in (1999-01-01, 0001-01-01)") == 0
    assert store.count(where="created != '2001-02-03 04:05'") == VERSIONS
    assert query.span_ns("2026-11-01T10:00:00+02:00") == (1793520000 * 10**9, 1793520001 * 10**9)
    assert query.span_ns("2026-11-01T08:00Z") == (1793520000 * 10**9, 1793520060 * 10**9)
    assert query.span_ns("2026-11-01T08Z") == (1793520000 * 10**9, 1793523600 * 10**9)
    for text in ("2026-11-32", "2026-11-01T25:00", "2026", "20261101", "2026-W44-1", "now"):
        assert query.span_ns(text) is None, text


def test_a_clock_that_was_ahead_is_no_age(store: casstore.Store) -> None:
    later = time.time_ns() - 10 * 365 * 86_400 * 10**9
    found = condition.compile("created > 0s", now_ns=later)
    assert say_with(store, found) == 0
    assert say_with(store, condition.compile("created < 0s", now_ns=later)) == VERSIONS
    assert say_with(store, condition.compile("created < 1e300y", now_ns=later)) == VERSIONS


def say_with(store: casstore.Store, found: condition.Condition) -> int:
    connection = apsw.Connection(str(store.home / "catalog.db"))
    try:
        return int(connection.execute(f"SELECT count(*) FROM ({found.sql})", found.parameters).get)
    finally:
        connection.close()


def test_keys_with_dots_quotes_and_blanks_are_found(tmp_path: Path) -> None:
    keys = {"eval/loss": 1, "a.b": 2, "my key": 3, 'q"': 4, "it's": 5, "": 6, "x..y": 7, "(and)": 8, "žluť": 9}
    with casstore.Store(tmp_path / "home") as made:
        with made.create("m:v1", metadata={"metrics": keys, "top": {"a.b": 10}}, labels={"a b": "c"}) as draft:
            Path(draft.path, "w").write_bytes(b"1")
        for key, number in keys.items():
            field = query.Field("metrics", key)
            assert made.count(where=f"{field} = {number}") == 1, key
            assert made.table(columns=str(field)) == [{str(field): number}]
        assert made.count(where="metrics.'a.b' = 2 and metrics.a.b = 2 and metadata.top.a.b = 10") == 1
        assert made.count(where="labels.'a b' = c and metrics.\"q\"\"\" = 4 and metrics.'it''s' = 5") == 1


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("metadata.n ~ '*'", 0), ("metadata.n like '%'", 0), ("metadata.n = '3'", 0), ("metadata.n < 'a'", 0),
        ("metadata.n >= ''", 0), ("metadata.n in (3, x)", 1), ("metadata.t ~ 3", 1), ("metadata.t = 3", 0),
        ("metadata.t > 1", 0), ("metadata.t < 5", 0), ("metadata.t >= ''", 1), ("metadata.t != 3", 1),
        ("metadata.nothing exists", 1), ("metadata.nothing = 0 or metadata.nothing != 'x'", 1),
        ("metadata.nothing < 1 or metadata.nothing > 1 or metadata.nothing ~ '*'", 0), ("metadata.yes = true", 1),
        ("metadata.yes = 'true'", 0), ("labels.l = 3 and labels.l in (3.0, 3)", 1), ("labels.l = 3.0", 0),
        ("metadata.big = 7B and metadata.big != 7", 1), ("metadata.huge = 1180591620717411303424", 1),
        ("name = M", 0), ("name like M", 1), ("metadata.empty exists", 0), ("metadata.t LIKE '3' AND NOT name = x", 1),
    ],
)  # fmt: skip
def test_unlike_types_are_not_compared(typed: casstore.Store, where: str, count: int) -> None:
    assert typed.count(where=where) == count


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[casstore.Store]:
    """A store with one version, of values of many types."""
    said = {"n": 3, "t": "3", "nothing": None, "yes": True, "big": "7B", "huge": 2**70, "empty": []}
    with casstore.Store(tmp_path_factory.mktemp("typed") / "home") as made:
        add(made, "m:v1", metadata=said, labels={"l": 3})
        yield made


def test_names_may_be_patterns(store: casstore.Store) -> None:
    names = {model.name for model in store.list("run-*")}
    assert names == {"run-1", "run-2"}
    assert {model.name for model in store.list("[!r]*", where="files >= 1")} == {"bert", "gpt"}
    assert store.count("b?rt") == store.count("bert") == len(store.list("bert"))
    assert store.list("x*") == []
    for wrong in ("run-* or", "run:*", "*" * 10 + "é"):
        with pytest.raises(casstore.InvalidTag):
            store.list(wrong)


def test_lists_sort_as_asked_and_else_by_name_and_time(store: casstore.Store) -> None:
    tags = [str(model.tag) for model in store.list()]
    assert [tag.partition(":")[0] for tag in tags] == sorted(tag.partition(":")[0] for tag in tags)
    newest_first = [str(model.tag) for model in store.list(sort="-created")]
    assert newest_first == sorted(newest_first, key=lambda tag: -int(tag.rpartition("v")[2]))
    assert [str(model.tag) for model in store.list(sort=["name", "created"], limit=1)] == [
        min((tag for tag in tags if tag.startswith("bert")), key=lambda tag: int(tag.rpartition("v")[2]))
    ]
    for wrong in ("labels", "", "name,", "-", "name created", "nam", "--name"):
        with pytest.raises(casstore.InvalidQuery):
            store.list(sort=wrong)
    assert len(store.list(sort="-metrics.acc", limit=10**30)) == len(store.list(limit=10**30)) == VERSIONS
    limits: list[Any] = [-1, True, "5", 1.5]
    for limit in limits:
        with pytest.raises(casstore.InvalidQuery):
            store.list(limit=limit)


def test_what_is_asked_is_checked_at_once_and_read_later(tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "home") as made:
        add(made, "m:v1")
        later = made.list("m")
        add(made, "m:v2")
        assert [str(model.tag) for model in later] == ["m:v1"]
        untouched = made.list("m")
        assert str(untouched[0].tag) == "m:v2"
        assert [str(model.tag) for model in untouched[:1]] == ["m:v2"]
        assert untouched[:0] == []
        assert len(untouched[: 10**30]) == 2
        assert [str(model.tag) for model in untouched[1:]] == ["m:v1"]
        with pytest.raises(IndexError):
            made.list("other")[0]
        with pytest.raises(casstore.InvalidQuery):
            made.list(where="nonsense")


@pytest.mark.parametrize(
    "use",
    [
        len, list, lambda models: sorted(map(str, models)), copy.copy,
        lambda models: plainly() + models, lambda models: models + plainly(), lambda models: models * 2,
        lambda models: [*models], lambda models: models == models[:], lambda models: plainly() == models,
        lambda models: models.pop(), lambda models: models.sort(key=str), lambda models: bool(models),
        lambda models: list(reversed(models)), lambda models: models[-1], lambda models: models[1:],
        lambda models: pickle.loads(pickle.dumps(models)), repr, tuple, lambda models: models.count(models[0]),
        lambda models: models[0] in models, lambda models: models.extend([1]) or models,
        lambda models: models.__iadd__([1]), lambda models: models.copy(), lambda models: dict(enumerate(models)),
        lambda models: (lambda *each: each)(*models), lambda models: models.clear() or models,
    ],
)  # fmt: skip
def test_a_list_that_nothing_has_looked_at_is_a_list(store: casstore.Store, use: Any) -> None:
    plain, lazy = list(store.list("bert")), store.list("bert")
    assert use(lazy) == use(plain)


def plainly() -> list[Any]:
    return []


def test_tables_are_rows_of_dicts(tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "home") as made:
        add(made, "m:v1", labels={"stage": "dev"}, metadata={"metrics": {"acc": 0.9}, "lr": 1e-3, "params": {"a": 1}})
        add(made, "m:v2", metadata={"acc": 0.5})
        made.pin("m:v2")
        first, second = made.table(sort="created")
        assert first.keys() == {
            "tag", "size", "files", "created", "labels.stage", "metrics.acc", "metadata.lr", "params.a"
        }  # fmt: skip
        assert second["metadata.acc"] == 0.5
        assert first["created"].tzinfo is not None
        columns = "tag,metrics.acc,labels.stage,pinned,alias,opened,base,name,version"
        assert made.table(columns=columns, sort="-metrics.acc") == [
            {"tag": "m:v1", "metrics.acc": 0.9, "labels.stage": "dev", "pinned": False, "alias": [], "opened": None,
             "base": None, "name": "m", "version": "v1"},
            {"tag": "m:v2", "metrics.acc": 0.5, "labels.stage": None, "pinned": True, "alias": [], "opened": None,
             "base": "m:v1", "name": "m", "version": "v2"},
        ]  # fmt: skip
        assert made.table(columns=["tag", "metrics"], limit=1) == [{"tag": "m:v2"}]
        with pytest.raises(casstore.InvalidQuery):
            made.table(columns="tags,x")


def add(store: casstore.Store, tag: str, **said: Any) -> None:
    with store.create(tag, durability="relaxed", materialize=False, **said) as draft:
        Path(draft.path, "w").write_bytes(tag.encode())


def test_what_is_in_the_trash_is_not_found(tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "home") as made:
        for number in range(3):
            add(made, f"m:v{number}", metadata={"acc": number})
        made.delete("m:v1")
        for where in (None, "metrics.acc >= 0", "not metrics.acc = 0", "alias exists or size > 0"):
            for sort in (None, "-metrics.acc", "created"):
                assert "m:v1" not in [str(model.tag) for model in made.list(where=where, sort=sort, limit=3)]
            assert made.count(where=where) == (1 if where == "not metrics.acc = 0" else 2)
        assert made.count("m") == 2


@pytest.mark.parametrize("before", [3, 5, 6])
def test_catalogs_of_earlier_releases_are_searched_unmigrated(
    store: casstore.Store, tmp_path: Path, before: int
) -> None:
    """As in a store that cannot be written to: without the newer indexes, and without some tables."""
    path = tmp_path / "catalog.db"
    connection = apsw.Connection(str(path))
    connection.execute("".join(MIGRATIONS[:before])).fetchall()
    connection.execute(f"ATTACH '{store.home / 'catalog.db'}' AS new")
    columns = [row[1] for row in connection.execute("PRAGMA main.table_info(version)")]
    wanted = ",".join(columns)
    connection.execute(f"INSERT INTO main.version({wanted}) SELECT {wanted} FROM new.version")
    for table in ("label", "metadata"):
        connection.execute(f"INSERT INTO main.{table} SELECT * FROM new.{table}")
    connection.execute(f"PRAGMA user_version = {before}; PRAGMA application_id = 1667330931; DETACH new").fetchall()
    connection.close()
    connections = opened_read_only(path)
    searches = search.Searches(connections, Versions(connections))
    for text in ("metrics.acc > 0 and size > 100", "not labels.stage = dev", "alias exists or files = 1"):
        wanted_rows = searches.rows(search.Search(expression=query.parse(text), sort=query.parse_sort("-metrics.acc")))
        if "alias" not in text:
            found = [str(model.tag) for model in store.list(where=text)]
            assert sorted(str(row.tag) for row in wanted_rows) == sorted(found)
    connections.close()


def opened_read_only(path: Path) -> Connections:
    with mock.patch("os.access", return_value=False):
        return Connections(path)
