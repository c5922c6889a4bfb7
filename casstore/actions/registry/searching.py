"""From what a caller says of the versions that are wanted to a search, and from versions to rows of a table."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from casstore.actions import resolve
from casstore.actions.describing import times
from casstore.catalog.catalog import Catalog
from casstore.catalog.query import Comparison, Field, Text, all_of, fields_of, parse, parse_fields, parse_sort
from casstore.catalog.search import MOST, Search
from casstore.catalog.versions import VersionRow
from casstore.errors import InvalidQuery, InvalidTag
from casstore.late import LateModule
from casstore.late_classes import dataclass
from casstore.plain_json import plain_labels

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")

_PATTERN = re.compile(r"[-._a-z0-9*?!^\[\]]+")
_WILD = frozenset("*?[")
_COLUMNS = ("tag", "size", "files", "created", "labels", "metadata")
_NESTED = ("metrics", "params")
_MOST_NEAR = 5  # of which some may be in the trash alone


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller says of the versions that are wanted."""

    name: str | None = None
    labels: Mapping[str, Any] | None = None
    where: str | None = None
    sort: str | Sequence[str] | None = None
    limit: int | None = None


def search_of(catalog: Catalog, wanted: Wanted) -> Search:
    """The search for what is wanted, of versions saved so far. Raises InvalidTag, InvalidMetadata, InvalidQuery."""
    with telling_what_there_is(catalog):
        search = parsed(wanted)
    return dataclasses.replace(search, up_to=catalog.searches.last())


def parsed(wanted: Wanted) -> Search:
    """The search for what is wanted, in any catalog. Raises InvalidTag, InvalidMetadata, InvalidQuery."""
    limit = wanted.limit
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidQuery(f"a limit is a number of versions, not {limit!r}")
    parts = [Comparison(Field("labels", key), "=", (Text(text),)) for key, text in plain_labels(wanted.labels).items()]
    expressions = [*([] if wanted.where is None else [parse(wanted.where)]), *parts]
    return Search(
        name=None if wanted.name is None else name_or_pattern(wanted.name),
        expression=all_of(expressions) if expressions else None,
        sort=() if wanted.sort is None else parse_sort(wanted.sort),
        limit=None if limit is None else min(limit, MOST),
        by_name=wanted.sort is None,
    )


@contextlib.contextmanager
def telling_what_there_is(catalog: Catalog) -> Iterator[None]:
    """What is done in it may raise InvalidQuery for a word that is no field: where versions have a label, a metric or
    other metadata of that name, as is often meant, the error names that instead of a field that is written alike."""
    try:
        yield
    except InvalidQuery as error:
        word = error.unknown
        found = [] if word is None else _of_that_name(catalog, word)
        if not found:
            raise
        meant = "that" if len(found) == 1 else "one of them"
        reason = f"there is no field {word!r}, but versions have {' and '.join(found)}; did you mean {meant}?"
        raise InvalidQuery(reason, error.excerpt, found[0], word) from None


def _of_that_name(catalog: Catalog, word: str) -> list[str]:
    labels = [Field("labels", word)]
    numbers = [Field(root, word) for root in ("metadata", *_NESTED)]  # what stands in `metadata` itself is in all
    found = (next(filter(catalog.searches.has, fields), None) for fields in (labels, numbers))
    return [str(each) for each in found if each is not None]


def unknown_fields(catalog: Catalog, wanted: Wanted) -> dict[str, str | None]:
    """The fields of what is wanted that no version has, each with the nearest one that some version has.

    Raises InvalidMetadata, InvalidQuery.
    """
    with telling_what_there_is(catalog):
        expression = parsed(wanted).expression
    fields = [] if expression is None else [each for each in fields_of(expression) if each.path is not None]
    return {str(field): _nearest(catalog, field) for field in fields if not catalog.searches.has(field)}


def _nearest(catalog: Catalog, field: Field) -> str | None:
    root, path = field.root, str(field.path)
    paths = catalog.searches.paths("labels" if root == "labels" else "metadata")
    if root in _NESTED:
        below = [each.removeprefix(f"{root}.") for each in paths if each.startswith(f"{root}.")]
        paths = [*below, *(each for each in paths if "." not in each)]
    near = (Field(root, each) for each in difflib.get_close_matches(path, paths, n=_MOST_NEAR))
    return next((str(each) for each in near if catalog.searches.has(each)), None)


def name_or_pattern(text: str) -> str:
    """A model's name, or a pattern of names. Raises InvalidTag."""
    if not isinstance(text, str) or _WILD.isdisjoint(text):
        return resolve.name(text)
    lowered = text.lower()
    if _PATTERN.fullmatch(lowered) is None:
        raise InvalidTag(f"{text!r} is no pattern of names, such as 'run-*'; versions go by an expression")
    return lowered


def columns_of(catalog: Catalog, columns: str | Sequence[str] | None) -> tuple[Field, ...]:
    """The fields that are wanted as columns; by default what most want to see. Raises InvalidQuery."""
    with telling_what_there_is(catalog):
        return parse_fields(_COLUMNS if columns is None else columns)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a row of a table may be made of."""

    row: VersionRow
    labels: Mapping[str, str]
    metadata: Mapping[str, Any]
    aliases: Sequence[str]
    is_pinned: bool

    def cells(self, fields: Sequence[Field]) -> dict[str, Any]:
        """The columns by name. A field that has many values, such as `labels`, is a column for each."""
        made: dict[str, Any] = {}
        for field in fields:
            if field.path is None and field.root in ("labels", "metadata", *_NESTED):
                made.update(self._spread(field.root))
            else:
                made[str(field)] = self.cell(field)
        return made

    def cell(self, field: Field) -> Any:
        """The value of one field; None where this version has none."""
        if field.root in ("labels", "metadata", *_NESTED) and field.path is None:
            return self._spread(field.root)
        if field.root == "labels":
            return self.labels.get(str(field.path))
        if field.root == "metadata":
            return _below(self.metadata, str(field.path))
        if field.root in _NESTED:
            nested = _below(self.metadata, f"{field.root}.{field.path}")
            return _below(self.metadata, str(field.path)) if nested is None else nested
        return self._own(field.root)

    def _own(self, root: str) -> Any:
        row = self.row
        if root in ("created", "opened"):
            at_ns = row.created_at_ns if root == "created" else row.opened_at_ns
            return None if at_ns is None else times.timestamp(at_ns)
        if root == "base":
            return None if row.base_name is None else f"{row.base_name}:{row.base_version}"
        own = {
            "tag": str(row.tag), "name": row.name, "version": row.version, "size": row.size, "files": row.file_count,
            "digest": row.digest.hex(), "pinned": self.is_pinned, "alias": list(self.aliases),
        }  # fmt: skip
        return own[root]

    def _spread(self, root: str) -> dict[str, Any]:
        if root == "labels":
            return {str(Field("labels", key)): text for key, text in self.labels.items()}
        if root in _NESTED:
            below = self.metadata.get(root)
            return {str(Field(root, key)): v for key, v in below.items()} if isinstance(below, Mapping) else {}
        spread: dict[str, Any] = {}
        for key, value in self.metadata.items():
            if key in _NESTED and isinstance(value, Mapping):
                spread.update(self._spread(key))
            else:
                spread[str(Field("metadata", key))] = value
        return spread


def _below(value: Any, path: str) -> Any:
    """What stands at a path, whose dots may be between keys or in them; None where nothing does."""
    if not isinstance(value, Mapping):
        return None
    if path in value:
        return value[path]
    for end, character in enumerate(path):
        if character == "." and path[:end] in value:
            found = _below(value[path[:end]], path[end + 1 :])
            if found is not None:
                return found
    return None
