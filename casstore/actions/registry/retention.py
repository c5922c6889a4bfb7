"""Which versions of a name rules keep: a function of what is known of the versions, without a look at any store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

from casstore.actions.registry.rules import PERIODS, Best, Every, KeepRules, Label

_HOUR_NS = 3600 * 1_000_000_000
_DAY_NS = 24 * _HOUR_NS
NEWER_THAN_NOW = "newer than now, so its age is unknown"
NO_RULE = "no rule keeps it"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of a version. `ordered_at_ns` and `number` give its place among the versions of its name.

    `numbers`: by field, the least and the largest of its values. `fits`: the expressions that it fits.
    """

    number: int
    created_at_ns: int
    ordered_at_ns: int
    is_pinned: bool = False
    aliases: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    fits: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version is kept, and why, or why not."""

    candidate: Candidate
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdicts, newest version first. `idle`: one line for each rule that keeps none of them. `is_refused`: no rule
    keeps any, while there is something to forget."""

    verdicts: tuple[Verdict, ...]
    idle: tuple[str, ...]
    is_refused: bool


def decide(candidates: Iterable[Candidate], rules: Iterable[KeepRules], now_ns: int) -> Judgement:
    """What becomes of the versions of one name, of which each stays that any of the rules keeps.

    The newest, and those with a pin or an alias, stay whatever the rules say. It does not matter in which order the
    versions are given, and more rules never keep less.
    """
    ordered = sorted(candidates, key=lambda each: (each.ordered_at_ns, each.number), reverse=True)
    always: dict[int, list[str]] = {each.number: _always(each) for each in ordered}
    if ordered:
        always[ordered[0].number].insert(0, "newest")
    by_rule: dict[int, list[str]] = {each.number: [] for each in ordered}
    idle: dict[str, None] = {}
    for each in rules:
        for kept, unused in _Rules(each, ordered, now_ns).apply():
            for number, reason in kept.items():
                if reason not in by_rule[number]:
                    by_rule[number].append(reason)
            if unused and not kept:
                idle[unused] = None
    verdicts = tuple(
        Verdict(each, bool(reasons), tuple(reasons) or (NO_RULE,))
        for each in ordered
        for reasons in [always[each.number] + by_rule[each.number]]
    )
    forgets = any(not verdict.keep for verdict in verdicts)
    return Judgement(verdicts, tuple(idle), forgets and not any(by_rule.values()))


def _always(candidate: Candidate) -> list[str]:
    found = ["pinned"] if candidate.is_pinned else []
    return found + [f"alias {alias}" for alias in candidate.aliases]


_Kept = tuple[Mapping[int, str], str]  # by number of a version, why; and what to say where that is none


@dataclass(frozen=True, slots=True)
class _Rules:
    """Some rules, and the versions of a name, newest first."""

    rules: KeepRules
    ordered: Sequence[Candidate]
    now_ns: int

    def apply(self) -> Iterable[_Kept]:
        """What each of the rules keeps."""
        if self.rules.keep_last is not None:
            kept = self.ordered[: self.rules.keep_last]
            yield {each.number: f"last {self.rules.keep_last:,}" for each in kept}, ""
        for best in self.rules.best:
            yield self._best(best), f"keep-best {best}: no version has a number {best.field.text}"
        if self.rules.has_ages:
            yield {each.number: NEWER_THAN_NOW for each in self.ordered if self._is_future(each)}, ""
        for period in PERIODS:
            count: int | None = getattr(self.rules, f"keep_{period}")
            if count is not None:
                yield self._periodic(period, count), ""
        if self.rules.within_ns is not None:
            yield self._within(self.rules.within_ns), f"keep-within {self.rules.keep_within}: all versions are older"
        for every in self.rules.every:
            yield self._every(every), f"keep-every {every}: no version has a number {every.field.text}"
        for label in self.rules.labels:
            yield self._labelled(label), f"keep-label {label}: no version has it"
        for text in self.rules.keep_where:
            fitting = {each.number: f"where {text}" for each in self.ordered if text in each.fits}
            yield fitting, f"keep-where {text}: no version fits"

    def _is_future(self, candidate: Candidate) -> bool:
        return candidate.created_at_ns > self.now_ns

    def _best(self, rule: Best) -> dict[int, str]:
        """Of equals the newer one is the better."""
        name, sign = rule.field.text, -1 if rule.is_max else 1
        having = [each for each in self.ordered if name in each.numbers]
        having.sort(key=lambda each: sign * each.numbers[name][rule.is_max])
        return {
            each.number: f"{'largest' if rule.is_max else 'least'} {name} {place} of {rule.count:,}: "
            f"{each.numbers[name][rule.is_max]:.6g}"
            for place, each in enumerate(having[: rule.count], 1)
        }

    def _periodic(self, period: str, count: int) -> dict[int, str]:
        """Of each of the last hours, days ... that have a version the newest; what is newer than now takes no place."""
        newest: dict[tuple[int, ...], int] = {}
        for each in self.ordered:
            if not self._is_future(each):
                newest.setdefault(_bucket(period, each.created_at_ns), each.number)
        return {newest[bucket]: f"{period} {_named(period, bucket)}" for bucket in sorted(newest, reverse=True)[:count]}

    def _within(self, within_ns: int) -> dict[int, str]:
        begin_ns, of = self.now_ns, ""
        if self.rules.since_newest and self.ordered:
            begin_ns, of = min(self.now_ns, self.ordered[0].created_at_ns), " of the newest"
        reason = f"within {self.rules.keep_within}{of}"
        return {
            each.number: reason
            for each in self.ordered
            if not self._is_future(each) and each.created_at_ns >= begin_ns - within_ns
        }

    def _every(self, rule: Every) -> dict[int, str]:
        name = rule.field.text
        first: dict[int, Candidate] = {}
        for each in self.ordered:
            if name in each.numbers:
                place = _quotient(each.numbers[name][0], rule.step)
                held = first.get(place)
                if held is None or each.numbers[name][0] < held.numbers[name][0]:
                    first[place] = each
        return {each.number: f"every {rule.text} {name}: {each.numbers[name][0]:.15g}" for each in first.values()}

    def _labelled(self, rule: Label) -> dict[int, str]:
        return {
            each.number: f"label {rule}"
            for each in self.ordered
            if rule.key in each.labels and rule.value in (None, each.labels[rule.key])
        }


def _quotient(value: float, step: Fraction) -> int:
    """How many whole steps there are up to a value, as it is written: 0.3 is three times 0.1."""
    if isinstance(value, int) and step.denominator == 1:
        return value // step.numerator
    return int(Fraction(str(value)) // step)


def _bucket(period: str, time_ns: int) -> tuple[int, ...]:
    """The hour, day, week, month or year of a time, in UTC; a later one is larger."""
    day = time_ns // _DAY_NS
    if period == "weekly":
        return ((day + 3) // 7,)  # the first day of 1970 was a Thursday
    date = _date(day)
    parts = {"yearly": 1, "monthly": 2}.get(period, 3)
    return date[:parts] if period != "hourly" else (*date, time_ns % _DAY_NS // _HOUR_NS)


def _named(period: str, bucket: tuple[int, ...]) -> str:
    if period == "weekly":
        bucket = _date(bucket[0] * 7 - 3)
        return "from {:04}-{:02}-{:02}".format(*bucket)
    text = "-".join(f"{part:02}" for part in bucket[:3])
    return text if period != "hourly" else f"{text} {bucket[3]:02}h"


def _date(day: int) -> tuple[int, int, int]:
    """Year, month and day of a day counted from 1970, however far away: a clock may have said anything."""
    era, of_era = divmod(day + 719_468, 146_097)  # days since the first of March of the year 0, and those of 400 years
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    return (
        year + era * 400 + (month >= 10),
        month + 3 if month < 10 else month - 9,
        of_year - (153 * month + 2) // 5 + 1,
    )
