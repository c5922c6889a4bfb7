"""From what a user typed to a version."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from casstore.catalog import aliases
from casstore.digest import Digest
from casstore.errors import AmbiguousTag, InvalidMetadata, InvalidTag, TagExists, TagNotFound
from casstore.late import LateModule
from casstore.storage.manifest import Base, FileEntry
from casstore.storage.parents import OF_BASE, Parent, checked_relation, is_name, packed, unpacked, without_doubles
from casstore.tag import LATEST, AliasName, Tag, TagQuery, generate_version

if TYPE_CHECKING:
    import difflib

    from casstore.catalog.aliases import AliasMove
    from casstore.catalog.catalog import Catalog
    from casstore.catalog.versions import VersionRow
else:
    difflib = LateModule("difflib")

_MAX_CANDIDATES = 10
DERIVED = "derived"  # the relation to a parent where none is said
# What is none of a store's versions: scheme://..., or NAME@sha256:DIGEST.
_OUTSIDE = re.compile(r"[A-Za-z][-+.A-Za-z0-9]*://.+|[^@]+@[A-Za-z0-9_+.-]+:[^@]+")


def find(catalog: Catalog, query: TagQuery) -> VersionRow:
    """The version meant: exact, newest, by unique prefix, or by an alias. Raises TagNotFound, AmbiguousTag."""
    if query.alias is not None:
        return _aliased(catalog, AliasName(query.name, query.alias), query.back)
    if query.version is None or query.wants_newest:
        newest = catalog.versions.newest(query.name)
        if newest is None:
            raise _not_found(catalog, str(query))
        return newest
    exact = catalog.versions.find(Tag(query.name, query.version))
    if exact is not None:
        return exact
    candidates = catalog.versions.with_prefix(query.name, query.version)
    left = [each.tag for each in catalog.remotes.elsewhere(query.name) if each.tag.version.startswith(query.version)]
    if Tag(query.name, query.version) in left:
        raise _not_found(catalog, str(query))
    if len(candidates) + len(left) > 1:
        tags = [str(tag) for tag in [*(row.tag for row in candidates), *left]]
        more = f" and {len(tags) - _MAX_CANDIDATES} more" if len(tags) > _MAX_CANDIDATES else ""
        raise AmbiguousTag(f"{query} could be {', '.join(tags[:_MAX_CANDIDATES])}{more}; type more of it", tags)
    if not candidates:
        raise _not_found(catalog, str(query))
    return candidates[0]


def exists(catalog: Catalog, query: TagQuery) -> bool:
    """Whether exactly that version is saved; for a name alone, or with `latest`, whether any version of it is. For an
    alias, whether it means one."""
    if query.alias is not None:
        try:
            return find(catalog, query) is not None
        except TagNotFound:
            return False
    if query.version is None or query.wants_newest:
        return catalog.versions.newest(query.name) is not None
    return catalog.versions.find(Tag(query.name, query.version)) is not None


def exact(catalog: Catalog, text: str | Tag) -> Tag:
    """A tag that names one version in full, for what cannot be undone. Raises InvalidTag, TagNotFound."""
    query = TagQuery.parse(text)
    if query.alias is not None:
        raise InvalidTag(f"{text} is an alias, which moves; name the version itself, now {find(catalog, query).tag}")
    if query.version is None:
        rows = catalog.versions.with_prefix(query.name, "")
        if not rows:
            raise InvalidTag(f"{text} names no version, and there is none of that name in this store")
        has = f"it has {len(rows):,}, {rows[0].tag}" + (" being the newest" if len(rows) > 1 else "")
        raise InvalidTag(
            f"{text} names no version: {has}; say which one to delete, "
            f"or `casstore delete --all-versions-of {query.name}`"
        )
    if query.version == LATEST:
        newest = catalog.versions.newest(query.name)
        hint = f", now {newest.tag}" if newest is not None else ""
        raise InvalidTag(f"{text} moves with every save; name the version itself{hint}")
    tag = Tag(query.name, query.version)
    if catalog.versions.find(tag) is None:
        raise _not_found(catalog, str(tag))
    return tag


def completed(query: TagQuery) -> Tag:
    """The tag that is typed for a version to be, its version generated if none is given. Raises InvalidTag."""
    if query.alias is not None:
        raise InvalidTag(
            f"{query} is an alias, and versions are saved under tags: save it as {query.name}, then "
            f"`casstore alias set {query.name}@{query.alias} {query.name}`",
            query.name,
        )
    return Tag(query.name, generate_version() if query.version is None else query.version)


def new_tag(catalog: Catalog, text: str | Tag, *, exist_ok: bool = False) -> Tag:
    """The tag of a version to be saved, its version generated if none is given. Raises InvalidTag, TagExists."""
    tag = completed(TagQuery.parse(text))
    if not exist_ok and catalog.versions.find(tag) is not None:
        raise TagExists(
            f"{tag} is already saved, and saved versions never change; choose another version, or say that the same "
            "one may be there: --exist-ok (in Python: exist_ok=True)"
        )
    if not exist_ok and any(each.tag == tag for each in catalog.remotes.elsewhere(tag.name)):
        raise TagExists(
            f"{tag} is taken: its bytes are in a remote, and saved versions never change; choose another version, or "
            f"forget that one here: `casstore delete {tag}`"
        )
    return tag


def base(catalog: Catalog, new: str | Tag, given: str | Tag | None) -> Base | None:
    """The version that a new one comes from: as given, else the newest of its name. Raises TagNotFound."""
    if given is not None:
        row = find(catalog, TagQuery.parse(given))
    else:
        newest = catalog.versions.newest(TagQuery.parse(new).name)
        if newest is None:
            return None
        row = newest
    return Base(row.tag, Digest(row.digest))


def said_parents(
    catalog: Catalog, given: Iterable[Any] | None, base: Base | None, wait: Callable[[str], None]
) -> tuple[Parent, ...] | None:
    """What a caller says that a new version comes from, and the base that it named, unless it says that there is
    nothing; None where it says nothing. `wait` is given each name before that is looked up. Raises InvalidMetadata,
    InvalidTag, TagNotFound."""
    if given is None:
        return None
    if isinstance(given, str | Tag | Parent):
        raise InvalidMetadata(f"parents is a list, such as [({str(given)!r}, 'finetune')]")
    said = [_parent(catalog, each, wait) for each in given]
    if said and base is not None and not any((each.tag, each.digest) == (base.tag, base.digest) for each in said):
        said.insert(0, Parent(OF_BASE, base.tag, base.digest))
    return without_doubles(said)


def _parent(catalog: Catalog, said: Any, wait: Callable[[str], None]) -> Parent:
    if isinstance(said, Parent):
        return _sound(said)
    what, relation = (said, DERIVED) if isinstance(said, str | Tag) else _pair(said)
    checked_relation(relation)
    if isinstance(what, str) and _OUTSIDE.fullmatch(what):
        if is_name(what):
            return Parent(relation, uri=what)
        raise InvalidMetadata(f"{what!r:.80} cannot be a parent: it has blanks or control characters, or is too long")
    query = TagQuery.parse(what)
    wait(query.name)
    try:
        row = find(catalog, query)
    except TagNotFound:
        there = [each for each in catalog.remotes.elsewhere(query.name) if each.tag.version == query.version]
        if not there:
            raise
        return Parent(relation, there[0].tag, there[0].digest)
    return Parent(relation, row.tag, Digest(row.digest))


def _sound(said: Parent) -> Parent:
    """A parent that a caller has made, or taken of another version, whose own may be gone by now."""
    try:
        is_one = (said.tag is None) != (said.uri is None)
        if is_one and checked_relation(said.relation) and (said.uri is None or is_name(said.uri)):
            return unpacked(packed(said))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InvalidMetadata(f"{said!r:.200} cannot be a parent: {error}") from error
    raise InvalidMetadata(f"{said!r:.200} cannot be a parent: it has a tag and a digest, or else a uri")


def _pair(said: Any) -> tuple[Any, Any]:
    if isinstance(said, tuple | list) and len(said) == 2 and isinstance(said[0], str | Tag):
        return said[0], said[1]
    raise InvalidMetadata(f"a parent is a tag or a URI, with a relation: ('chat:v1', 'finetune'), not {said!r:.80}")


def files(catalog: Catalog, row: VersionRow) -> list[FileEntry]:
    """The files of a version found earlier. Raises TagNotFound when it has been deleted since."""
    entries = catalog.versions.checked_files(row)
    if len(entries) != row.file_count:
        raise _deleted(row)
    return entries


def check_stands(catalog: Catalog, row: VersionRow) -> None:
    """Raises TagNotFound when a version found earlier has been deleted since."""
    if catalog.versions.by_id(row.id) is None:
        raise _deleted(row)


def _deleted(row: VersionRow) -> TagNotFound:
    return TagNotFound(f"{row.tag} has been deleted meanwhile")


def name(text: str) -> str:
    """A model's name. Raises InvalidTag, also for a whole tag."""
    query = TagQuery.parse(text)
    if not query.is_name:
        raise InvalidTag(f"{text!r} is a tag; a name alone is wanted here, such as {query.name!r}")
    return query.name


def known_name(catalog: Catalog, text: str) -> str:
    """The name of a model that has versions. Raises TagNotFound."""
    checked = name(text)
    if catalog.versions.newest(checked) is None:
        raise _not_found(catalog, checked)
    return checked


def _aliased(catalog: Catalog, alias: AliasName, back: int) -> VersionRow:
    """The version that an alias means, or meant so many moves before. Raises TagNotFound."""
    found = catalog.versions.aliased(alias)
    if found is None:
        raise _no_alias(catalog, alias)
    if not back:
        return found
    moves = aliases.steps_back(catalog.aliases.history(alias))
    if back >= len(moves):
        raise aliases.not_so_far(alias, back, max(0, len(moves) - 1))
    return _of_move(catalog, alias, moves[back])


def _of_move(catalog: Catalog, alias: AliasName, move: AliasMove) -> VersionRow:
    tag = move.tag
    row = None if tag is None else catalog.versions.find(tag)
    if row is None or row.digest != move.digest:  # another version may have got the tag
        raise aliases.gone(alias, move)
    return row


def _no_alias(catalog: Catalog, alias: AliasName) -> TagNotFound:
    if catalog.versions.newest(alias.name) is None:
        return _not_found(catalog, f"{alias}")
    moves = catalog.aliases.history(alias)
    near = difflib.get_close_matches(alias.alias, [each.alias for each in catalog.aliases.standing(alias.name)], n=1)
    if moves or not near:
        return aliases.no_alias(alias, moves)
    nearest = f"{alias.name}@{near[0]}"
    return TagNotFound(f"there is no alias {alias} in this store; did you mean {nearest}?", nearest)


def _not_found(catalog: Catalog, text: str) -> TagNotFound:
    for each in catalog.remotes.elsewhere(text.partition(":")[0]):
        if str(each.tag) == text:
            return TagNotFound(f"{text} is in the remote {each.remote} alone; `casstore pull {text}` brings it back")
    # A name is compared with names and a tag with tags, so that a wrong version finds its sisters.
    wanted, colon, version = text.partition("@")[0].partition(":")
    if version and version != LATEST and catalog.trash.has(wanted, version):
        return TagNotFound(f"{text} has been deleted, and is in the trash; `casstore undelete {text}` brings it back")
    names = catalog.versions.names()
    pool = catalog.versions.tags() if colon and wanted in names else names
    near = difflib.get_close_matches(text if colon and wanted in names else wanted, pool, n=1, cutoff=0.5)
    if near:
        return TagNotFound(f"there is no {text} in this store; did you mean {near[0]}?", near[0])
    hint = "`casstore list` shows what there is" if names else "the store is empty"
    return TagNotFound(f"there is no {text} in this store; {hint}")
