"""Forgetting versions that no rule keeps: a plan over a store, and doing what it says."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from casstore.actions import resolve
from casstore.actions.consistency.held import kept_manifests
from casstore.actions.describing.times import timestamp
from casstore.actions.registry.retention import Candidate, Judgement, Verdict, decide
from casstore.actions.registry.rules import KeepRules
from casstore.actions.reserved import in_any_room
from casstore.actions.saving.delete import delete
from casstore.actions.workspace import Workspace
from casstore.catalog import condition
from casstore.catalog.events import DELETED
from casstore.catalog.freed import Freed
from casstore.catalog.retention import Known, Wanted
from casstore.errors import InvalidPolicy, InvalidQuery, TagNotFound, VersionAliased
from casstore.late import LateModule
from casstore.notebook import Shown
from casstore.tag import Tag

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")

_GLOB = frozenset("*?[")
_ATTEMPTS = 3  # where another process deletes some of the versions meanwhile
_GONE = "gone meanwhile"
_MOST_WHY_CHARACTERS = 500  # an expression may be long, and each version has an event
KEEPS_NOTHING = "its policies keep nothing, and are refused"


@dataclass(frozen=True, slots=True)
class PlannedVersion(Shown):
    """What becomes of a version.

    Attributes
    ----------
    tag
        The version.
    keep
        Whether it stays.
    reasons
        Why: each rule that keeps it.
    created_at
        When it was saved, in UTC.
    size
        The bytes of its files.
    frees_bytes
        What comes back with it, beside what comes back with the versions before it in the plan; 0 for one that stays.
        Of what several need, all is told with the last of them.
    """

    tag: Tag
    keep: bool
    reasons: tuple[str, ...]
    created_at: datetime
    size: int
    frees_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ForgetPlan(Shown):
    """What rules keep of names and what they forget: what would be, or what has been done.

    Attributes
    ----------
    versions
        Every version of these names, by name and newest first.
    rules
        By name, the rules; a version stays that any of them keeps.
    frees_bytes
        What forgetting gives back in all: the sum of what it says of the versions.
    frees_at_rewrite_bytes
        The part of it that is in packs which also hold needed chunks, and comes back when gc rewrites these.
    notes
        One line for each rule that keeps no version of a name.
    dry_run
        Whether nothing was changed.
    quarantined
        The paths in `quarantine/` of what was in directories and was not the versions' own.
    """

    versions: tuple[PlannedVersion, ...]
    rules: Mapping[str, tuple[KeepRules, ...]]
    frees_bytes: int
    frees_at_rewrite_bytes: int
    notes: tuple[str, ...] = ()
    dry_run: bool = True
    quarantined: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[Tag, ...]:
        """The tags of the versions that stay."""
        return tuple(each.tag for each in self.versions if each.keep)

    @property
    def forgotten(self) -> tuple[Tag, ...]:
        """The tags of the versions that go, or have gone."""
        return tuple(each.tag for each in self.versions if not each.keep)


Doomed = Mapping[Tag, tuple[int, str | None]]
"""Versions that are to be forgotten, each as it was judged: see `casstore.catalog.deletions`."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The versions of a name, and what rules make of them."""

    known: Mapping[int, Known]
    judgement: Judgement

    @property
    def doomed(self) -> list[Verdict]:
        """Those that no rule keeps, newest first."""
        return [verdict for verdict in self.judgement.verdicts if not verdict.keep]

    def spared(self) -> Judged:
        """The same, where all of them stay."""
        verdicts = (
            verdict if verdict.keep else replace(verdict, keep=True, reasons=(KEEPS_NOTHING,))
            for verdict in self.judgement.verdicts
        )
        return replace(self, judgement=replace(self.judgement, verdicts=tuple(verdicts)))

    def doomed_of(self, name: str) -> Doomed:
        """The same by their tags, as they were judged."""
        known = (self.known[verdict.candidate.number] for verdict in self.doomed)
        return {Tag.of_checked(name, each.version): (each.id, each.annotated) for each in known}

    def tag(self, name: str, verdict: Verdict) -> Tag:
        return Tag.of_checked(name, self.known[verdict.candidate.number].version)


def names_of(workspace: Workspace, names: Iterable[str]) -> list[str]:
    """The names that are meant by these names and patterns, each once. Raises TagNotFound, InvalidTag."""
    known = workspace.catalog.versions.names()
    found: dict[str, None] = {}
    for text in names:
        if isinstance(text, str) and not _GLOB.isdisjoint(text):
            matching = matched(text.lower(), known)
            if not matching:
                near = difflib.get_close_matches(text.strip("*?[]!"), known, n=1)
                hint = f"the nearest is {near[0]}" if near else "`casstore list` shows what there is"
                raise TagNotFound(f"no name in this store matches {text!r:.80}; {hint}", near[0] if near else None)
            found.update(dict.fromkeys(matching))
        else:
            found[resolve.known_name(workspace.catalog, text)] = None
    return list(found)


def matched(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern matches: * any characters, ? one, [...] one of them."""
    return [name for name in names if fnmatchcase(name, pattern)]


def check_pattern(text: str) -> str:
    """A name or a pattern of names, as it is kept. Raises InvalidTag, InvalidPolicy."""
    if not isinstance(text, str) or _GLOB.isdisjoint(text):
        return resolve.name(text)
    if len(text) > 63 or not text.isascii() or not set(text) <= _IN_PATTERNS:
        raise InvalidPolicy(f"{text!r:.80} can match no name: names have letters, digits, '-', '_' and '.'")
    return text.lower()


_IN_PATTERNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.*?[]!")


def judged(workspace: Workspace, name: str, rules: Sequence[KeepRules], now_ns: int) -> Judged:
    """What rules make of the versions of a name at this moment. Raises CatalogDamaged."""
    known = workspace.catalog.retention.known(name, _wanted(rules, now_ns))
    candidates = (
        Candidate(
            each.id, each.created_at_ns, each.ordered_at_ns, each.is_pinned, each.aliases, each.labels, each.numbers,
            each.fits,
        )
        for each in known
    )  # fmt: skip
    return Judged({each.id: each for each in known}, decide(candidates, rules, now_ns))


def _wanted(rules: Sequence[KeepRules], now_ns: int) -> Wanted:
    numbers = {rule.field.text: rule.field.paths for each in rules for rule in each.best}
    numbers |= {rule.field.text: rule.field.paths for each in rules for rule in each.every}
    labels = frozenset(label.key for each in rules for label in each.labels)
    compiled = {text: condition.compile(text, now_ns=now_ns) for each in rules for text in each.keep_where}
    return Wanted(numbers, labels, {text: (each.sql, each.parameters) for text, each in compiled.items()})


def check_keeps(name: str, found: Judged, rules: Iterable[KeepRules]) -> None:
    """Raise InvalidPolicy where the rules keep no version of a name, and there is one to forget."""
    if found.judgement.is_refused:
        why = f" ({'; '.join(found.judgement.idle)})" if found.judgement.idle else ""
        raise InvalidPolicy(
            f"nothing was forgotten: {' '.join(map(str, rules)) or 'no rule'} keeps no version of {name}{why}; give a "
            "rule that keeps some, such as --keep-last 1 (in Python: keep_last=1)"
        )


def plan(workspace: Workspace, rules: Mapping[str, tuple[KeepRules, ...]], *, is_strict: bool = True) -> ForgetPlan:
    """Say what becomes of the versions of these names.

    Where the rules keep nothing of one, InvalidPolicy is raised; unless `is_strict`, all of it stays then.
    """
    now_ns = time.time_ns()
    found = {name: judged(workspace, name, each, now_ns) for name, each in rules.items()}
    notes = [f"{name}: {line}" for name, each in found.items() for line in each.judgement.idle]
    for name, each in [*found.items()]:
        try:
            check_keeps(name, each, rules[name])
        except InvalidPolicy as error:
            if is_strict:
                raise
            notes.append(str(error))
            found[name] = each.spared()
    freed = _freed(workspace, [verdict.candidate.number for each in found.values() for verdict in each.doomed])
    versions = [
        _planned(each.tag(name, verdict), verdict, each.known[verdict.candidate.number].size, freed)
        for name, each in found.items()
        for verdict in each.judgement.verdicts
    ]
    return ForgetPlan(tuple(versions), dict(rules), freed.bytes, freed.at_rewrite_bytes, tuple(notes))


def _freed(workspace: Workspace, version_ids: Sequence[int]) -> Freed:
    return workspace.catalog.freed.by_each(version_ids, kept_manifests(workspace))


def _planned(tag: Tag, verdict: Verdict, size: int, freed: Freed) -> PlannedVersion:
    return PlannedVersion(
        tag, verdict.keep, verdict.reasons, timestamp(verdict.candidate.created_at_ns), size,
        freed.by_version.get(verdict.candidate.number, 0),
    )  # fmt: skip


def carry_out(workspace: Workspace, planned: ForgetPlan) -> ForgetPlan:
    """Forget what a plan says, name by name, each in one transaction.

    What has been pinned, got an alias or is kept by a rule meanwhile stays, and what has been saved meanwhile too. An
    error leaves earlier names done.
    Returns what has been done. Raises StoreLocked, OSError, CasstoreError.
    """
    by_name: dict[str, list[PlannedVersion]] = {name: [] for name in planned.rules}
    for each in planned.versions:
        by_name[each.tag.name].append(each)
    done: list[PlannedVersion] = []
    quarantined: list[str] = []
    for name, versions in by_name.items():
        wanted = {each.tag for each in versions if not each.keep}
        gone, kept, now = _forget(workspace, name, planned.rules[name], wanted)
        quarantined += kept
        for each in versions:
            if not each.keep and each.tag not in gone:
                each = replace(each, keep=True, reasons=now.get(each.tag, (_GONE,)), frees_bytes=0)
            done.append(each)
    freed = sum(each.frees_bytes for each in done)
    at_rewrite = min(freed, planned.frees_at_rewrite_bytes)
    return ForgetPlan(tuple(done), planned.rules, freed, at_rewrite, planned.notes, False, tuple(quarantined))


def _forget(
    workspace: Workspace, name: str, rules: Sequence[KeepRules], wanted: set[Tag]
) -> tuple[set[Tag], list[str], dict[Tag, tuple[str, ...]]]:
    """Forget those of the versions that no rule keeps now.

    Returns which have gone, the paths in quarantine/ of what was not theirs, and of the others why they stay.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        if not wanted:
            break
        found = judged(workspace, name, rules, time.time_ns())
        check_keeps(name, found, rules)
        reasons = {found.tag(name, verdict): verdict.reasons for verdict in found.judgement.verdicts}
        doomed = {tag: seen for tag, seen in found.doomed_of(name).items() if tag in wanted}
        try:
            why = f"kept by none of {' '.join(map(str, rules))}"
            return set(doomed), forget(workspace, doomed, why), reasons
        except (TagNotFound, VersionAliased):  # none of them has gone
            if attempt == _ATTEMPTS:
                raise
    return set(), [], {}


def forget(workspace: Workspace, doomed: Doomed, why: str) -> list[str]:
    """Delete versions of one name in one transaction, on a full disk too; returns paths in quarantine/.

    `why`: what the history of the store is to say of each. Raises TagNotFound or VersionAliased, with nothing deleted,
    if one of them is no longer as it was judged.
    """
    if not doomed:
        return []
    event = DELETED._replace(details={"why": why[:_MOST_WHY_CHARACTERS]})
    return in_any_room(workspace, functools.partial(delete, workspace, [*doomed], event, judged=doomed))


def rules_of(document: Mapping[str, Any], pattern: str) -> KeepRules:
    """The rules of a stored policy. Raises InvalidPolicy for what this release cannot read: that may keep more."""
    try:
        return KeepRules.of(document)
    except (InvalidPolicy, InvalidQuery) as error:
        raise InvalidPolicy(
            f"the policy for {pattern!r:.80} cannot be read, so nothing is forgotten by it ({error}); set it again: "
            f"`casstore policy set {pattern}`"
        ) from error


def policies_of(policies: Mapping[str, Mapping[str, Any]], name: str) -> tuple[KeepRules, ...]:
    """The rules of all stored policies whose pattern matches a name: what any of them keeps stays.

    Raises InvalidPolicy if one of them cannot be read.
    """
    return tuple(rules_of(rules, pattern) for pattern, rules in policies.items() if fnmatchcase(name, pattern))
