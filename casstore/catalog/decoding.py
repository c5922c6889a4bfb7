"""Checks of what a row holds, done once, where it is decoded: the catalog may be damaged, or of untrusted origin.

A name in a row leads to a path, and a number to a place in a file. An impossible value raises CatalogDamaged: nothing
here tries to go on with it, and rebuilding the catalog needs no row.
"""

from __future__ import annotations

from typing import Any, TypeVar

from casstore.digest import DIGEST_BYTES, Digest
from casstore.errors import CatalogDamaged, InvalidTag
from casstore.storage.container import Container, Kind
from casstore.tag import Tag, is_part

_T = TypeVar("_T")


def malformed(what: str) -> CatalogDamaged:
    """The error for a row with an impossible value, such as "the size of a file is -3"."""
    return CatalogDamaged(
        f"the catalog is damaged ({what}); `casstore repair --rebuild-catalog` makes it again from the files beside it"
    )


def typed(value: Any, kind: type[_T], what: str) -> _T:
    """The value, if it is of exactly that type; True is not an int here. Raises CatalogDamaged."""
    if type(value) is kind:
        return value
    raise malformed(f"{what} is {value!r:.60}")


def digest(value: Any) -> Digest:
    """32 bytes as a digest. Raises CatalogDamaged."""
    if type(value) is bytes and len(value) == DIGEST_BYTES:
        return Digest(value)
    raise malformed(f"a digest is {value!r:.60}")


def optional_digest(value: Any) -> Digest | None:
    """A digest, or None for NULL. Raises CatalogDamaged."""
    return None if value is None else digest(value)


def container(row_id: Any, file_id: Any, kind: Any, blob: Any, executable: Any) -> Container:
    """A container from these columns of its row. Raises CatalogDamaged."""
    try:
        made = Container(row_id, typed(file_id, str, "an id"), Kind(kind), optional_digest(blob), bool(executable))
    except ValueError as error:
        raise malformed(f"container {row_id!r:.40}: {error}") from error
    return made


def sized_container(row: Any) -> tuple[Container, int]:
    """A container's row and its size. Raises CatalogDamaged."""
    return container(*row[:5]), typed(row[5], int, "a size")


def name(value: Any) -> str:
    """The name of a model. Raises CatalogDamaged."""
    if is_part(value):
        return str(value)
    raise malformed(f"a model is named {value!r:.60}")


def tag(model: Any, version: Any) -> Tag:
    """A tag from its parts. Raises CatalogDamaged."""
    if is_part(model) and is_part(version):
        try:
            return Tag(model, version)
        except InvalidTag:
            pass
    raise malformed(f"a version is tagged {model!r:.40}:{version!r:.40}")
