"""What a store and a remote have of one another, and what is asked of a remote's versions as a whole."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from casstore.actions import resolve
from casstore.actions.exchange.remote_cache import live_refs
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import TagNotFound
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Ref
from casstore.tag import Tag, TagQuery

_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What a store and a remote have of one another, as tags in order.

    Attributes
    ----------
    here
        Saved here, and not in the remote.
    there
        In the remote, and not saved here.
    different
        In both under one tag, with other files.
    same
        How many are in both.
    """

    here: Sequence[str]
    there: Sequence[str]
    different: Sequence[str]
    same: int


def status(workspace: Workspace, bucket: Bucket, pool: Executor) -> RemoteStatus:
    """Compare all versions. Raises IntegrityError, RemoteError."""
    here = {row.tag: row.digest for row in workspace.catalog.versions.select()}
    there = {ref.tag: ref.digest for ref in live_refs(workspace, bucket, pool)}
    both = here.keys() & there.keys()
    different = [tag for tag in both if here[tag] != there[tag]]
    only_here, only_there = here.keys() - there.keys(), there.keys() - here.keys()
    return RemoteStatus(_texts(only_here), _texts(only_there), _texts(different), len(both) - len(different))


def _texts(tags: Iterable[Tag]) -> list[str]:
    return [str(tag) for tag in sorted(tags)]


def chosen(texts: Sequence[str], tags: Collection[Tag], where: str) -> list[Tag]:
    """The tags that are meant, each once, in the order of `tags`: a tag, a name for all of its versions, or a pattern.

    `where` is what messages call the place. Raises TagNotFound for a text that fits none.
    """
    found: set[Tag] = set()
    for text in texts:
        fitting = [tag for tag in tags if fits(tag, text)]
        if not fitting:
            raise TagNotFound(
                f"no version in {where} is called {text!r}; say a tag, a name, or a pattern such as 'bert:*'"
            )
        found.update(fitting)
    return [tag for tag in tags if tag in found]


def fits(tag: Tag, text: str) -> bool:
    """Whether a tag is meant by a tag, a name, or a pattern of either."""
    lowered = text.lower()
    if not _WILD.isdisjoint(lowered):
        return fnmatch.fnmatchcase(str(tag) if ":" in lowered else tag.name, lowered)
    return lowered in (str(tag), tag.name)


def local_rows(workspace: Workspace, texts: Sequence[str] | None) -> list[VersionRow]:
    """The saved versions that are meant, all where nothing is said, the oldest first. Raises TagNotFound."""
    rows = {row.tag: row for row in sorted(workspace.catalog.versions.select(), key=lambda row: row.id)}
    if texts is None:
        return list(rows.values())
    named = [str(resolve.find(workspace.catalog, TagQuery.parse(text)).tag) if "@" in text else text for text in texts]
    return [rows[tag] for tag in chosen(named, rows.keys(), "this store")]


def remote_tags(refs: Sequence[Ref], texts: Sequence[str] | None, where: str) -> list[Tag]:
    """The versions of a remote that are meant, all where nothing is said, the oldest first. Raises TagNotFound."""
    ordered = {ref.tag: ref for ref in sorted(refs, key=lambda ref: (ref.created_at_ns, ref.tag))}
    return list(ordered) if texts is None else chosen(texts, ordered.keys(), where)
