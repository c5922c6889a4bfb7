"""A store as a cache of a remote: versions that are fetched when they are asked for, and given up when they are not."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.actions import elsewhere_file
from casstore.actions.directories.pinning import is_pinned
from casstore.actions.saving import delete as delete_action
from casstore.actions.workspace import Workspace
from casstore.catalog.aliases import aliased
from casstore.catalog.events import Noted
from casstore.catalog.remotes import Elsewhere
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, RemoteError, StoreError, TagExists, TagNotFound, VersionAliased
from casstore.remote import keys
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Ref
from casstore.remote.pushing import described_as
from casstore.storage import sessions
from casstore.tag import LATEST, AliasName, Tag, TagQuery


@dataclass(frozen=True, slots=True)
class Missing:
    """A version that is not here, and the remote that it may be pulled from.

    `digest`: its content, where the store had it once.
    """

    remote: str
    text: str
    digest: Digest | None = None

    def check(self, tag: Tag, digest: Digest) -> None:
        """Raise TagExists for what the remote has, where that is another version than was left to it."""
        if self.digest not in (None, digest):
            raise TagExists(replaced(tag))


def replaced(tag: Tag) -> str:
    """What is said of a version that was left to a remote, where another has its tag there."""
    return (
        f"{tag} was left to a remote, and another version has its tag there now; forget the one that was here: "
        f"`casstore delete {tag}`, or pull this one as another version with --as NAME:VERSION"
    )


def missing(workspace: Workspace, query: TagQuery) -> Missing | None:
    """Which remote is to be asked for a version that was not found, and for what; None where none is."""
    if query.alias is not None:
        return None
    left = workspace.catalog.remotes.elsewhere(query.name)
    if query.version is None or query.wants_newest:
        fitting = sorted(left, key=lambda each: each.created_at_ns)[-1:]
    else:
        exact = [each for each in left if each.tag.version == query.version]
        fitting = exact or [each for each in left if each.tag.version.startswith(query.version)]
    if len(fitting) == 1:
        return Missing(fitting[0].remote, str(fitting[0].tag), fitting[0].digest)
    remote = workspace.catalog.setting("pull_missing")
    version = LATEST if query.version is None or query.wants_newest else query.version
    return None if remote == "off" else Missing(remote, f"{query.name}:{version}")


def give_up(workspace: Workspace, bucket: Bucket, remote: str, row: VersionRow) -> None:
    """Keep a version's name here, and its bytes in the remote alone, once all of them have been seen there.

    Raises StoreError or VersionAliased for one that is to stay here, TagNotFound or IntegrityError where it is not
    there or not whole, RemoteError.
    """
    _check_idle(workspace, row)
    ref = _checked_ref(bucket, row)
    elsewhere_file.note(workspace, Elsewhere(row.tag, remote, ref.digest, row.size, row.created_at_ns))
    event = Noted("left to remote", {"remote": remote})
    try:
        delete_action.delete(workspace, [row.tag], event, now=True)  # it is not given up for good: it is there
    except VersionAliased:  # an alias has just been moved there
        elsewhere_file.forget(workspace, row.tag)
        raise


def _check_idle(workspace: Workspace, row: VersionRow) -> None:
    aliases = workspace.catalog.aliases.of_version(row.id)
    if aliases:
        raise aliased(row.tag, [AliasName(row.name, alias) for alias in aliases])
    newest = workspace.catalog.versions.newest(row.name)
    leases = workspace.catalog.leases
    alive = [session for session in leases.sessions() if sessions.is_live(workspace.layout, session)]
    if row.id in leases.versions(alive):
        why = "is in use by a process"
    elif is_pinned(workspace, row):
        why = "is pinned (`casstore unpin`)"
    elif newest is not None and newest.id == row.id:
        why = "is the newest version of its name, which is kept at hand"
    else:
        return
    raise StoreError(f"{row.tag} {why}, so its bytes stay here")


def _checked_ref(bucket: Bucket, row: VersionRow) -> Ref:
    state = bucket.state(row.tag)
    if not state.is_live:
        raise TagNotFound(f"{row.tag} is not in {bucket.name}, so its bytes stay here; `casstore push {row.tag}` first")
    # As they stand there: what this store has kept of them would not help anybody else.
    ref, segment = bucket.version(row.tag)
    if ref.digest != row.digest or ref.described != described_as(row.described()):
        what = "files" if ref.digest != row.digest else "labels, metadata or what else is said of it"
        raise IntegrityError(
            f"{row.tag} in {bucket.name} is another than here ({what} differ), so nothing was given up"
        )
    _check_packs(bucket, row.tag, {info.key: info.size for info in segment.packs})
    return ref


def _check_packs(bucket: Bucket, tag: Tag, sizes: dict[str, int]) -> None:
    prefixes = {f"{keys.PACKS}{place[0]}/" for key in sizes if (place := keys.parse_pack(key)) is not None}
    there = {entry.key: entry.size for prefix in sorted(prefixes) for entry in bucket.backend.list(prefix)}
    wrong = [key for key, size in sizes.items() if there.get(key) != size]
    if wrong:
        raise RemoteError(
            f"{len(wrong):,} of the packs that {tag} needs are not whole in {bucket.name}, such as {wrong[0]}; nothing "
            "was given up; `casstore remote verify` tells more"
        )
