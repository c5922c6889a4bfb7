"""Policies: rules of retention that are stored for names, and applied after each save and by gc."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from casstore.actions import resolve
from casstore.actions.registry import forgetting, policy_log
from casstore.actions.registry.forgetting import Doomed, ForgetPlan, policies_of, rules_of
from casstore.actions.registry.rules import KeepRules
from casstore.actions.workspace import Workspace
from casstore.errors import CasstoreError, InvalidPolicy
from casstore.late import LateModule
from casstore.storage import sessions
from casstore.storage.locks import Lock
from casstore.tag import Tag

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")

_log = logging.getLogger(__name__)
MOST_AFTER_SAVE = 100  # versions that one save forgets; more, as after a first policy, is left to the next ones and gc


def check_rules(rules: KeepRules) -> None:
    """Raise InvalidPolicy where there is no rule."""
    if rules.is_empty:
        raise InvalidPolicy(
            "no rule says what to keep, and so all would go; give some, such as --keep-last 5 or --keep-within 14d (in "
            "Python: keep_last=5, keep_within='14d')"
        )


def plan(workspace: Workspace, names: Sequence[str], rules: KeepRules) -> ForgetPlan:
    """Say what rules keep of some names. Raises InvalidPolicy, TagNotFound."""
    check_rules(rules)
    if not names:
        raise InvalidPolicy("say of which names versions are to be forgotten, such as bert or 'run-*'")
    return forgetting.plan(workspace, dict.fromkeys(forgetting.names_of(workspace, names), (rules,)))


def plan_by_policies(workspace: Workspace, names: Sequence[str], rules: KeepRules) -> ForgetPlan:
    """Say what the stored policies keep of some names, or of all that they match. Raises InvalidPolicy, TagNotFound."""
    if not rules.is_empty:
        raise InvalidPolicy("policies say themselves what to keep; give either rules or --policies (policies=True)")
    stored = workspace.catalog.retention.policies()
    if not stored:
        raise InvalidPolicy("no policy is stored; `casstore policy set 'run-*' --keep-last 5` stores one")
    wanted = forgetting.names_of(workspace, names) if names else workspace.catalog.versions.names()
    matching = {name: found for name in wanted if (found := policies_of(stored, name))}
    for name in wanted if names else ():
        if name not in matching:
            raise InvalidPolicy(f"no policy matches {name}; `casstore policy set {name} --keep-last 5` stores one")
    return forgetting.plan(workspace, matching, is_strict=False)


def set_policy(workspace: Workspace, pattern: str, rules: KeepRules) -> str:
    """Store rules for the names that a pattern matches, in place of those of the same pattern; returns the pattern.

    Raises InvalidPolicy, also where they keep nothing of a name that is there, InvalidTag, StoreLocked.
    """
    checked = forgetting.check_pattern(pattern)
    check_rules(rules)
    now_ns = time.time_ns()
    for name in forgetting.matched(checked, workspace.catalog.versions.names()):
        forgetting.check_keeps(name, forgetting.judged(workspace, name, (rules,), now_ns), (rules,))
    with policy_log.changing(workspace):
        workspace.catalog.retention.set_policy(checked, rules.as_document())
    return checked


def unset_policy(workspace: Workspace, pattern: str) -> str:
    """Take a policy away; returns its pattern. Raises InvalidPolicy where there is none, StoreLocked."""
    checked = forgetting.check_pattern(pattern)
    with policy_log.changing(workspace):
        if workspace.catalog.retention.set_policy(checked, None):
            return checked
    known = list(workspace.catalog.retention.policies())
    near = difflib.get_close_matches(checked, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "`casstore policy show` lists those there are"
    raise InvalidPolicy(f"there is no policy for {checked!r}; {hint}")


def policies(workspace: Workspace, name: str | None) -> dict[str, KeepRules]:
    """The stored policies by pattern, or those that match a name. Raises InvalidTag."""
    wanted = None if name is None else resolve.name(name)
    return {
        pattern: rules_of(rules, pattern)
        for pattern, rules in workspace.catalog.retention.policies().items()
        if wanted is None or forgetting.matched(pattern, [wanted])
    }


def apply_after_save(workspace: Workspace, tag: Tag) -> None:
    """Forget what the policies of its name no longer keep, now that this version is saved. It is not among that.

    Nothing is waited for that may take long: where the name is in use, this is left to the next save, or to gc. Never
    fails: what goes wrong is named in the log.
    """
    try:
        stored = workspace.catalog.retention.policies()
        rules = policies_of(stored, tag.name) if stored else ()
        if not rules:
            return
        others = [each for each in _doomed(workspace, tag.name, rules).items() if each[0] != tag]
        doomed = dict(others[-MOST_AFTER_SAVE:])
        if doomed and _is_free(workspace, tag.name):
            forgetting.forget(workspace, doomed, _why(stored, tag.name, rules))
            _log.info("%s: forgotten by policy: %s", tag.name, ", ".join(map(str, doomed)))
    except (CasstoreError, OSError) as error:
        _warn(tag.name, error)


def _is_free(workspace: Workspace, name: str) -> bool:
    with Lock(workspace.layout.name_lock(name)) as lock:
        return lock.try_acquire()


def apply_all(workspace: Workspace, *, dry_run: bool) -> int | None:
    """Forget what no policy keeps of the names that policies match; returns how many versions, None without policies.

    What goes wrong with one name is named in the log, and the others are done.
    """
    stored = workspace.catalog.retention.policies()
    if not dry_run:
        try:
            policy_log.catch_up(workspace)
        except (CasstoreError, OSError) as error:
            _log.warning("%s could not be brought up to date (%s)", workspace.layout.policies, error)
    if not stored:
        return None
    return sum(_apply(workspace, name, stored, dry_run=dry_run) for name in workspace.catalog.versions.names())


def _apply(workspace: Workspace, name: str, stored: Mapping[str, Mapping[str, Any]], *, dry_run: bool) -> int:
    try:
        rules = policies_of(stored, name)
        doomed = _doomed(workspace, name, rules) if rules else {}
        if doomed and not dry_run:
            forgetting.forget(workspace, doomed, _why(stored, name, rules))
            _log.info("%s: forgotten by policy: %s", name, ", ".join(map(str, doomed)))
        return len(doomed)
    except (CasstoreError, OSError) as error:
        _warn(name, error)
        return 0


def _why(stored: Iterable[str], name: str, rules: Iterable[KeepRules]) -> str:
    """What the history of the store says of a version that the policies of its name forget."""
    patterns = [pattern for pattern in stored if forgetting.matched(pattern, [name])]
    kept = " ".join(map(str, rules))
    return f"kept by none of {kept} (the {'policy' if len(patterns) == 1 else 'policies'} for {', '.join(patterns)})"


def _warn(name: str, error: Exception) -> None:
    _log.warning(
        "the policy of %s could not be applied, and its versions stay (%s); `casstore forget --policies %s --dry-run` "
        "shows what it would do",
        name, error, name,
    )  # fmt: skip


def _doomed(workspace: Workspace, name: str, rules: Sequence[KeepRules]) -> Doomed:
    """What goes by rules that nobody has looked over: not what another process uses at this moment."""
    found = forgetting.judged(workspace, name, rules, time.time_ns())
    forgetting.check_keeps(name, found, rules)
    used = _in_use(workspace) if found.doomed else set()
    return {tag: seen for tag, seen in found.doomed_of(name).items() if seen[0] not in used}


def _in_use(workspace: Workspace) -> set[int]:
    """The row ids of the versions whose directories other living processes have been given."""
    leases, own = workspace.catalog.leases, workspace.leasing.session_id
    is_live = functools.partial(sessions.is_live, workspace.layout)
    others: Iterable[str] = [each for each in leases.sessions() if each != own and is_live(each)]
    return leases.versions(others)
