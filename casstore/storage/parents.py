"""Parents: what a version came from. That is a version of a store, or anything else that has a name."""

from __future__ import annotations

import re
from typing import Any

from casstore.digest import Digest
from casstore.errors import InvalidMetadata
from casstore.late_classes import dataclass
from casstore.tag import Tag

OF_BASE = "base"  # the relation to the version that is only known as the base
MOST_PARENTS = 1000
_MOST_CHARACTERS = 4096
_MOST_RELATION_CHARACTERS = 63
_RELATION = re.compile(r"[a-z]([-._a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Parent:
    """What a version came from: a version of a store, or something else.

    Attributes
    ----------
    relation
        How, in a word: `base`, `finetune`, `adapter`, `quantized`, `merge`, `dataset`, `copy`, or any other.
    tag
        Of a version of a store, its tag; else None.
    digest
        Its content's digest when the child was saved: a later version under this tag is another one.
    uri
        Of anything else, what it is called, such as `hf://org/name@revision`; else None.
    """

    relation: str
    tag: Tag | None = None
    digest: Digest | None = None
    uri: str | None = None

    def __str__(self) -> str:
        return str(self.uri if self.tag is None else self.tag)

    @property
    def thing(self) -> tuple[Tag | None, Digest | None, str | None]:
        """What it is, whatever the relation."""
        return self.tag, self.digest, self.uri


def packed(parent: Parent) -> list[Any]:
    """A parent as a manifest has it."""
    if parent.tag is None:
        return [parent.relation, parent.uri]
    return [parent.relation, [parent.tag.name, parent.tag.version, parent.digest]]


def unpacked(row: Any) -> Parent:
    """What `packed` wrote, trusting nothing. Raises ValueError, TypeError, LookupError, AttributeError."""
    relation, what = row[0], row[1]
    if type(relation) is not str or not 0 < len(relation) <= _MOST_RELATION_CHARACTERS:
        raise ValueError(f"{relation!r:.80} is not a relation")
    if type(what) is str:
        if not 0 < len(what) <= _MOST_CHARACTERS:
            raise ValueError("what a version came from is called by too long a name, or by none")
        return Parent(relation, uri=what)
    return Parent(relation, strict_tag(what[0], what[1]), Digest.from_bytes(what[2]))


def unpacked_all(rows: Any) -> tuple[Parent, ...]:
    """The parents in a manifest, trusting nothing. Raises as `unpacked` does."""
    if type(rows) is not list or len(rows) > MOST_PARENTS:
        raise ValueError("what a version came from is not a list, or too long a one")
    return tuple(map(unpacked, rows))


def strict_tag(name: str, version: str) -> Tag:
    """The tag of these parts as they stand. Raises ValueError, AttributeError for what is no text."""
    if (name, version) != (name.lower(), version.lower()):
        raise ValueError(f"{name}:{version} is not in lower case")
    return Tag(name, version)


def checked_relation(text: Any) -> str:
    """What a caller calls a relation. Raises InvalidMetadata."""
    if isinstance(text, str) and is_relation(text):
        return text
    raise InvalidMetadata(
        f"{text!r:.80} cannot be the relation to a parent: a word such as finetune, of small letters, digits, '-', '_' "
        f"and '.', that begins with a letter and has at most {_MOST_RELATION_CHARACTERS} characters"
    )


def is_relation(text: str) -> bool:
    """Whether a relation can be called that."""
    return len(text) <= _MOST_RELATION_CHARACTERS and _RELATION.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether something else than a version can be called that: it is printable, without blanks, and not too long."""
    return 0 < len(text) <= _MOST_CHARACTERS and text.isprintable() and not any(map(str.isspace, text))


def without_doubles(parents: list[Parent]) -> tuple[Parent, ...]:
    """The parents in order, each once for each relation. Raises InvalidMetadata where they are too many."""
    kept = tuple(dict.fromkeys(parents))
    if len(kept) > MOST_PARENTS:
        raise InvalidMetadata(f"a version has at most {MOST_PARENTS:,} parents, and these are {len(kept):,}")
    return kept
