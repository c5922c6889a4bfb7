"""What the protocol's safety rests on, taken out one at a time: a scene must show each of these to be needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping

import pytest

from casstore.actions.exchange import push
from casstore.remote import collect, keys, pushing
from casstore.remote.documents import PushEnd, Ref

Mutant = Callable[[pytest.MonkeyPatch], None]


def edited(patch: pytest.MonkeyPatch, module: object, name: str, *changes: tuple[str, str]) -> None:
    """Replace a function of a module, or `Class.method`, by one whose source has these texts for those."""
    owner, _, attribute = name.rpartition(".")
    holder = getattr(module, owner) if owner else module
    source = inspect.getsource(getattr(holder, attribute))
    lines = inspect.cleandoc(f"\n{source}")
    for old, new in changes:
        assert lines.count(old) == 1, f"{name} has no {old!r}: its mutant has to be written again"
        lines = lines.replace(old, new)
    scope = vars(module)
    made: dict[str, object] = {}
    exec(compile(f"from __future__ import annotations\n{lines}", f"<mutant of {name}>", "exec"), scope, made)
    patch.setattr(holder, attribute, made[attribute])


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """gc removes what it condemned without waiting for pushes, or ending them."""
    patch.setattr(collect, "_unheard", lambda *_: [])


def no_second_mark(patch: pytest.MonkeyPatch) -> None:
    """gc removes what it found at first, whatever has been sealed since."""
    edited(
        patch,
        collect,
        "collect",
        ("marked = mark(bucket, pool, marked.needs, pause=pause)\n    doomed", "pass\n    doomed"),
    )


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    """A push does not look for a newer epoch once it is open."""
    patch.setattr(pushing.Push, "note_newest", lambda _: None)
    edited(patch, pushing, "Push.begin", ("while (newer := push.newer_epoch()) is not None", "while (newer := None)"))


def noted_blindly(patch: pytest.MonkeyPatch) -> None:
    """A push says that it knows of an epoch, and goes on relying on what that condemns."""
    edited(patch, push, "_Pushing._send", ("if push.condemned.isdisjoint", "if True or push.condemned.isdisjoint"))


def condemned_relied_on(patch: pytest.MonkeyPatch) -> None:
    """A push takes no heed of what is condemned."""
    noted_blindly(patch)
    edited(patch, push, "_There.add", ("or pack.key in self.condemned", ""))


def newest_epoch_alone(patch: pytest.MonkeyPatch) -> None:
    """A push takes heed of the newest epoch that it has noted, and not of those before."""
    edited(patch, pushing, "Push.note", ("self.condemned | frozenset(", "frozenset("))


def not_sealed(patch: pytest.MonkeyPatch) -> None:
    """A push makes its ref without having ended, whether or not it was revoked."""

    def seal(self: pushing.Push, refs: Collection[tuple[str, Ref]]) -> PushEnd:
        return PushEnd(self.id, True, [(key, ref.pack().decode("utf-8")) for key, ref in refs])

    patch.setattr(pushing.Push, "seal", seal)


def not_rolled_forward(patch: pytest.MonkeyPatch) -> None:
    """gc does not make the refs of pushes that are sealed."""
    patch.setattr(collect, "roll_forward", lambda *_: {})


def pushes_first(patch: pytest.MonkeyPatch) -> None:
    """gc lists pushes before packs and segments, so that a push which began in between seems to be none."""
    listing = "pushes = list_pushes(bucket)\n    "
    edited(patch, collect, "mark", (listing, ""), ("packs = {entry", f"{listing}packs = {{entry"))


def refs_before_pushes(patch: pytest.MonkeyPatch) -> None:
    """gc lists refs before it makes those of sealed pushes."""
    listing = "pushes = list_pushes(bucket)"
    edited(
        patch,
        collect,
        "mark",
        (listing, f"refs = bucket.refs()\n    {listing}"),
        ("states = bucket.refs()", "states = refs"),
    )


def uncondemned(patch: pytest.MonkeyPatch) -> None:
    """An epoch does not have what was condemned before."""
    edited(patch, collect, "_publish", ("condemned = still |", "condemned ="))


def revocations_purged(patch: pytest.MonkeyPatch) -> None:
    """gc removes how pushes were revoked, so that they can be sealed."""
    edited(patch, collect, "_remove_records", ("if key in ends and ends[key].is_sealed", "if key in ends"))


def open_pushes_collected(patch: pytest.MonkeyPatch) -> None:
    """gc takes segments that nothing names yet."""
    patch.setattr(collect.Marked, "_may_come", lambda _self, place: place is None)


def undeleted(patch: pytest.MonkeyPatch) -> None:
    """A deleted version that is pushed again gets the ref that it had: its tombstone goes."""

    def commit(self: push._Pushing, pushing_: pushing.Push, ref: Ref, state: keys.RefState) -> bool:
        if state.is_deleted:
            self.bucket.backend.delete([keys.tombstone(ref.tag, state.generation)])
            return True
        return real(self, pushing_, ref, state)

    real = push._Pushing._commit
    patch.setattr(push._Pushing, "_commit", commit)


def own_packs_trusted(patch: pytest.MonkeyPatch) -> None:
    """A push relies on what one that was cut short noted, whether or not that has arrived."""

    def written(self: push._Pushing, _push: object, push_ids: Collection[str]) -> list[object]:
        return [pack for push_id in push_ids for pack in self.workspace.catalog.remotes.packs(push_id)]

    patch.setattr(push._Pushing, "_written", written)


def signatures_collected(patch: pytest.MonkeyPatch) -> None:
    """gc removes the signatures of versions that are there."""
    dead = property(lambda state: [key for _, key in state._signatures])
    patch.setattr(keys.RefState, "dead_signatures", dead)


def not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """gc does not let the time go by for which listings may be old."""
    patch.setattr(collect, "_settle", lambda *_: None)


MUTANTS: Mapping[str, Mutant] = {
    each.__name__: each
    for each in (
        no_fence,
        no_second_mark,
        no_second_look,
        noted_blindly,
        condemned_relied_on,
        newest_epoch_alone,
        not_sealed,
        not_rolled_forward,
        pushes_first,
        refs_before_pushes,
        uncondemned,
        revocations_purged,
        open_pushes_collected,
        undeleted,
        own_packs_trusted,
        signatures_collected,
        not_waited_for,
    )
}
