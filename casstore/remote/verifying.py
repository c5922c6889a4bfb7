"""Whether what a remote's versions need is there, and, read wholly, sound."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field

from casstore.errors import IntegrityError
from casstore.remote import keys
from casstore.remote.backend import KeyMissing
from casstore.remote.bucket import Bucket, advice
from casstore.remote.segment import PackInfo
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class RemoteReport:
    """What was found of a remote.

    Attributes
    ----------
    versions, packs
        How many were looked at.
    read_bytes
        Of packs, where they were read.
    damage
        What is wrong, one line each.
    tags
        The versions that cannot be pulled whole because of it.
    """

    versions: int
    packs: int
    read_bytes: int
    damage: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage


@dataclass(slots=True)
class _Findings:
    damage: list[str] = field(default_factory=list)
    tags: set[Tag] = field(default_factory=set)
    packs: dict[PackInfo, set[Tag]] = field(default_factory=dict)


def verify(bucket: Bucket, pool: Executor, *, deep: bool = False) -> RemoteReport:
    """Read every ref and segment, and see that the packs they name stand, whole.

    With `deep`, those are read too, and the signatures that stand beside versions. Raises RemoteError where the remote
    cannot be reached.
    """
    found = _Findings()
    states = bucket.refs()
    live = keys.live(states)
    for (tag, _), outcome in zip(live.items(), pool.map(lambda pair: _look(bucket, *pair), live.items()), strict=True):
        if isinstance(outcome, str):
            found.damage.append(f"{tag}: {outcome}")
            found.tags.add(tag)
        else:
            for info in outcome:
                found.packs.setdefault(info, set()).add(tag)
    sizes = {entry.key: entry.size for entry in bucket.backend.list(keys.PACKS)}
    read_bytes = 0
    standing = []
    for info, tags in found.packs.items():
        if sizes.get(info.key) == info.size:
            standing.append(info)
            continue
        size = sizes.get(info.key)
        wrong = "is gone" if size is None else f"has {size:,} bytes, not {info.size:,}"
        found.damage.append(f"{info.key} {wrong}")
        found.tags |= tags
    if deep:
        for info, is_sound in zip(standing, pool.map(lambda each: _is_sound(bucket, each), standing), strict=True):
            read_bytes += info.size
            if not is_sound:
                found.damage.append(f"{info.key} does not match its digest")
                found.tags |= found.packs[info]
        signatures = [(tag, key) for tag, state in states.items() for key in state.signatures]
        found.damage += filter(None, pool.map(lambda pair: _fault_of_signature(bucket, *pair), signatures))
    return RemoteReport(
        len(live), len(found.packs), read_bytes, tuple(found.damage), tuple(str(tag) for tag in sorted(found.tags))
    )


def _look(bucket: Bucket, tag: Tag, key: str) -> list[PackInfo] | str:
    """The packs of a version, or what is wrong with its ref or segment."""
    try:
        ref = bucket.ref(tag, key)
        try:
            return list(bucket.segment(ref).packs)
        except KeyMissing:
            state = bucket.state(tag)
            return [] if not state.is_live or state.key(tag) != key else f"{ref.segment} is gone; {advice(tag)}"
    except IntegrityError as error:
        return str(error)


def _fault_of_signature(bucket: Bucket, tag: Tag, key: str) -> str:
    """What is wrong with a signature, or nothing. Without it the version can be pulled whole."""
    try:
        bucket.signature(tag, key)
    except KeyMissing:
        return ""  # its version has been deleted meanwhile
    except IntegrityError as error:
        return str(error)
    return ""


def _is_sound(bucket: Bucket, info: PackInfo) -> bool:
    try:
        return bucket.is_sound(info)
    except KeyMissing:
        return False
