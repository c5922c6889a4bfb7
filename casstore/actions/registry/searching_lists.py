"""Searches among versions of which no more is known than a list of them says, as of a remote."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from casstore.actions.registry import searching
from casstore.actions.registry.searching import Facts, Wanted
from casstore.catalog import listed
from casstore.catalog.listed import Listed
from casstore.catalog.query import Field, fields_of, parse_fields
from casstore.catalog.search import Search
from casstore.catalog.versions import VersionRow
from casstore.errors import InvalidQuery

_Listed = TypeVar("_Listed", bound=Listed)
_COLUMNS = ("tag", "size", "created", "labels")


def parsed(wanted: Wanted) -> Search:
    """The search for what is wanted, the newest first unless it says otherwise.

    Raises InvalidTag, InvalidMetadata, InvalidQuery, also for a field that no list says.
    """
    search = searching.parsed(wanted)
    if search.expression is not None:
        _check_known(fields_of(search.expression))
    _check_known(key.field for key in search.sort)
    return dataclasses.replace(search, by_name=False)


def columns_of(columns: str | Sequence[str] | None) -> tuple[Field, ...]:
    """The fields that are wanted as columns; by default all that is known. Raises InvalidQuery."""
    fields = parse_fields(_COLUMNS if columns is None else columns)
    _check_known(fields)
    return fields


def found(versions: Iterable[_Listed], search: Search) -> Sequence[_Listed]:
    """Those of the versions that are wanted, in the wanted order."""
    ordered = sorted(versions, key=lambda each: (each.created_at_ns, each.tag))
    if search.name is None and search.expression is None and not search.sort:
        return ordered[::-1][: search.limit]
    return [ordered[number] for number in listed.found(ordered, search)]


def cells(version: Listed, fields: Sequence[Field]) -> dict[str, Any]:
    """The columns of a version by name, as of one that is saved."""
    tag = version.tag
    row = VersionRow(
        0, tag.name, tag.version, "", version.digest, version.size, 0, version.created_at_ns, "", "", None, None, None,
        "", None, None,
    )  # fmt: skip
    return Facts(row, version.labels, {}, (), False).cells(fields)


def _check_known(fields: Iterable[Field]) -> None:
    for field in fields:
        if field.root not in listed.FIELDS:
            raise InvalidQuery(
                f"a remote does not list {field}, only {', '.join(listed.FIELDS[:-1])} and labels.KEY; "
                "`casstore show TAG --remote` has all of one version, and `casstore pull` brings versions here"
            )
