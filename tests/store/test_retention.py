"""Which versions rules keep: a function of what is known of the versions, and of nothing else."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import casstore
from casstore.actions.registry.retention import NEWER_THAN_NOW, Candidate, decide
from casstore.actions.registry.rules import KeepRules
from tests.kit import EVERY

SECOND = 10**9
DAY = 24 * 3600 * SECOND
NOW = 1_700_000_000 * SECOND
tried = settings(max_examples=EVERY * 500 or 25)
NUMBERS = ("metrics.f1", "metadata.step")
MOST_YEARS = 200  # of a time that the catalog can hold


def rules(**said: object) -> KeepRules:
    return KeepRules.of(said)


def kept(candidates: list[Candidate], *given: KeepRules, now: int = NOW) -> list[int]:
    return [each.candidate.number for each in decide(candidates, given, now).verdicts if each.keep]


def reasons(candidates: list[Candidate], given: KeepRules, number: int, now: int = NOW) -> tuple[str, ...]:
    return next(each.reasons for each in decide(candidates, [given], now).verdicts if each.candidate.number == number)


def run(days: list[float], **more: object) -> list[Candidate]:
    """Versions 1, 2, ... that are so many days old."""
    return [
        Candidate(number, NOW - int(age * DAY), number, **more)  # type: ignore[arg-type]
        for number, age in enumerate(days, 1)
    ]


def scored(*values: float | None, name: str = "metrics.f1") -> list[Candidate]:
    return [
        Candidate(number, NOW - DAY, number, numbers={} if value is None else {name: (value, value)})
        for number, value in enumerate(values, 1)
    ]


candidates = st.lists(
    st.builds(
        Candidate,
        number=st.integers(1, 10**6),
        created_at_ns=st.integers(NOW - MOST_YEARS * 365 * DAY, NOW + MOST_YEARS * 365 * DAY) | st.just(NOW),
        ordered_at_ns=st.integers(0, 50),
        is_pinned=st.booleans(),
        aliases=st.sampled_from([(), (), ("prod",)]),
        labels=st.dictionaries(st.sampled_from(["keep", "stage"]), st.sampled_from(["yes", "no"])),
        numbers=st.dictionaries(
            st.sampled_from(NUMBERS),
            st.one_of(st.integers(-50, 50), st.floats(-50, 50)).map(lambda value: (value, value)),
        ),
        fits=st.sets(st.sampled_from(["size > 1"])).map(frozenset),
    ),
    max_size=12,
    unique_by=lambda each: each.number,
)
counts = st.none() | st.integers(1, 4)
some_rules = st.builds(
    lambda **said: KeepRules.of({name: value for name, value in said.items() if value is not None}),
    keep_last=counts, keep_hourly=counts, keep_daily=counts, keep_weekly=counts, keep_monthly=counts,
    keep_yearly=counts,
    keep_best=st.lists(st.sampled_from(["metrics.f1:max:1", "metrics.f1:min:2", "metadata.step:max:1"]), max_size=2),
    keep_every=st.lists(st.sampled_from(["metadata.step:10", "metrics.f1:0.5"]), max_size=1),
    keep_within=st.none() | st.sampled_from(["1d", "6mo", "100y"]),
    keep_label=st.lists(st.sampled_from(["keep=yes", "stage"]), max_size=2),
    keep_where=st.lists(st.just("size > 1"), max_size=1),
)  # fmt: skip


@tried
@given(candidates, some_rules)
def test_the_newest_the_pinned_and_the_aliased_stay(versions: list[Candidate], given: KeepRules) -> None:
    found = set(kept(versions, given))
    assert {each.number for each in versions if each.is_pinned or each.aliases} <= found
    if versions:
        assert max(versions, key=lambda each: (each.ordered_at_ns, each.number)).number in found


@tried
@given(candidates, some_rules, some_rules)
def test_more_rules_never_keep_less(versions: list[Candidate], one: KeepRules, other: KeepRules) -> None:
    both = set(kept(versions, one, other))
    assert both == set(kept(versions, one)) | set(kept(versions, other))


@tried
@given(candidates, some_rules, st.randoms())
def test_the_order_in_which_they_come_does_not_matter(
    versions: list[Candidate], given: KeepRules, chance: object
) -> None:
    found = decide(versions, [given], NOW)
    shuffled = [*versions]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(shuffled, [given], NOW) == found
    places = [(each.candidate.ordered_at_ns, each.candidate.number) for each in found.verdicts]
    assert places == sorted(places, reverse=True)


@tried
@given(candidates, some_rules)
def test_what_is_kept_once_is_kept_again(versions: list[Candidate], given: KeepRules) -> None:
    """A second run has nothing to do: what the first has forgotten made room for nothing."""
    left = [each for each in versions if each.number in kept(versions, given)]
    assert kept(left, given) == [each.number for each in sorted(left, key=lambda e: (-e.ordered_at_ns, -e.number))]


@tried
@given(candidates, some_rules, st.integers(0, MOST_YEARS * 365 * DAY))
def test_nothing_newer_than_now_is_forgotten_by_age(versions: list[Candidate], given: KeepRules, back: int) -> None:
    now = NOW - back
    future = {each.number for each in versions if each.created_at_ns > now}
    if given.has_ages:
        assert future <= set(kept(versions, given, now=now))


@tried
@given(candidates, some_rules)
def test_every_verdict_has_its_reasons(versions: list[Candidate], given: KeepRules) -> None:
    for verdict in decide(versions, [given], NOW).verdicts:
        assert verdict.reasons
        assert verdict.keep == (verdict.reasons != ("no rule keeps it",))


@tried
@given(some_rules)
def test_rules_survive_json(given: KeepRules) -> None:
    assert KeepRules.of(json.loads(json.dumps(given.as_document()))) == given


def test_last() -> None:
    assert kept(run([0, 1, 2, 3]), rules(keep_last=2)) == [4, 3]


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        ("metrics.f1:max:1", [6, 2]), ("metrics.f1:max:2", [6, 3, 2]), ("metrics.f1:min:1", [6, 5]),
        ("metrics.f1:max:99", [6, 5, 3, 2, 1]),
    ],
)  # fmt: skip
def test_best(rule: str, numbers: list[int]) -> None:
    assert kept(scored(0.1, 0.9, 0.5, None, -3, None), rules(keep_best=rule)) == numbers


def test_of_equals_the_newer_is_the_better() -> None:
    assert kept(scored(0.5, 0.5, 0.1), rules(keep_best="metrics.f1:max:1")) == [3, 2]
    assert reasons(scored(0.5, 0.5, 0.1), rules(keep_best="metrics.f1:max:1"), 2) == ("largest metrics.f1 1 of 1: 0.5",)


@pytest.mark.parametrize(
    ("step", "values", "numbers"),
    [
        ("1000", [500, 1000, 1500, 2000, 2500], [5, 4, 2, 1]),
        ("100", [99, 199, 299, 399], [4, 3, 2, 1]),
        ("1000", [999, 1999, 2999], [3, 2, 1]),
        ("0.1", [0.1, 0.2, 0.25, 0.3, 0.35], [5, 4, 2, 1]),
        ("10", [-5, 5, 15], [3, 2, 1]),
    ],
)
def test_every(step: str, values: list[float], numbers: list[int]) -> None:
    """Of each thousand the first; 0.3 is the third tenth, whatever binary fractions make of it."""
    assert kept(scored(*values, name="metadata.step"), rules(keep_every=f"metadata.step:{step}")) == numbers


def test_within() -> None:
    versions = run([40, 30, 13, 0.5])
    assert kept(versions, rules(keep_within="14d")) == [4, 3]
    assert kept(versions, rules(keep_within="2w6h")) == [4, 3]
    assert kept(versions, rules(keep_within="1mo")) == [4, 3, 2]
    assert kept(run([60, 50, 45]), rules(keep_within="14d", since_newest=True)) == [3, 2]
    refused = decide(run([60, 50, 45]), [rules(keep_within="14d")], NOW)
    assert refused.is_refused
    assert refused.idle == ("keep-within 14d: all versions are older",)


def test_days_begin_in_utc_and_of_each_the_newest_stays() -> None:
    midnight = NOW // DAY * DAY
    versions = [
        Candidate(number, time, number)
        for number, time in enumerate((midnight - DAY, midnight - 1, midnight, midnight + 1), 1)
    ]
    assert kept(versions, rules(keep_daily=1)) == [4]
    assert kept(versions, rules(keep_daily=2)) == [4, 2]
    assert reasons(versions, rules(keep_daily=2), 2) == ("daily 2023-11-13",)
    assert kept(versions, rules(keep_hourly=9)) == [4, 2, 1]
    assert reasons(versions, rules(keep_hourly=9), 1) == ("hourly 2023-11-13 00h",)


def test_days_without_a_version_do_not_count() -> None:
    assert kept(run([900, 400, 399.9, 2, 0]), rules(keep_daily=3)) == [5, 4, 3]
    assert kept(run([900, 500, 2, 0]), rules(keep_yearly=2)) == [4, 2]


@tried
@given(st.integers(-MOST_YEARS * 365, MOST_YEARS * 365))
def test_periods_are_those_of_the_calendar(day: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(days=day, hours=5)
    versions = [Candidate(1, day * DAY + 5 * 3600 * SECOND, 1)]
    now = versions[0].created_at_ns + 1
    monday = date(moment.year, moment.month, moment.day) - timedelta(days=moment.weekday())
    for name, text in {
        "hourly": f"{moment:%Y-%m-%d} 05h", "daily": f"{moment:%Y-%m-%d}", "weekly": f"from {monday}",
        "monthly": f"{moment:%Y-%m}", "yearly": f"{moment:%Y}",
    }.items():  # fmt: skip
        assert reasons(versions, rules(**{f"keep_{name}": 1}), 1, now)[-1] == f"{name} {text}"


def test_a_version_from_the_future_takes_no_place() -> None:
    """Saved while the clock was years ahead, it is kept by age, says so, and costs no other its day."""
    versions = [*run([3, 2, 1]), Candidate(4, NOW + 3650 * DAY, 4), Candidate(5, NOW, 5)]
    for by_age in (rules(keep_daily=2), rules(keep_within="36h")):
        assert 4 in kept(versions, by_age)
        assert NEWER_THAN_NOW in reasons(versions, by_age, 4)
        assert 3 in kept(versions, by_age)
    assert 4 not in kept(versions, rules(keep_last=1)), "a rule that goes by no age"


def test_labels_and_expressions() -> None:
    versions = [
        Candidate(1, NOW, 1, labels={"keep": "yes"}), Candidate(2, NOW, 2, labels={"keep": "no"}),
        Candidate(3, NOW, 3, fits=frozenset(["size > 1"])), Candidate(4, NOW, 4),
    ]  # fmt: skip
    assert kept(versions, rules(keep_label="keep=yes")) == [4, 1]
    assert kept(versions, rules(keep_label="keep")) == [4, 2, 1]
    assert kept(versions, rules(keep_label=["keep=no", "keep=yes"])) == [4, 2, 1]
    assert kept(versions, rules(keep_where="size > 1")) == [4, 3]


def test_a_rule_that_keeps_nothing_is_named() -> None:
    found = decide(run([1, 0]), [rules(keep_last=1, keep_best="metrics.F1:max:3", keep_label="a=b")], NOW)
    assert found.idle == (
        "keep-best metrics.F1:max:3: no version has a number metrics.F1", "keep-label a=b: no version has it",
    )  # fmt: skip
    assert not found.is_refused
    assert decide(run([1, 0]), [rules(keep_label="a=b")], NOW).is_refused
    assert not decide(run([1]), [rules(keep_label="a=b")], NOW).is_refused, "nothing would go"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"keep_last": 0}, "from 1 on"), ({"keep_last": -1}, "from 1 on"), ({"keep_last": True}, "from 1 on"),
        ({"keep_daily": 1.5}, "from 1 on"), ({"keep_daily": "9" * 30}, "from 1 on"),
        ({"keep_best": "metrics.f1"}, "metrics.f1:max:3"), ({"keep_best": "metrics.f1:mx:3"}, "metrics.f1:max:3"),
        ({"keep_best": "f1:max:3"}, "did you mean 'metrics.f1'"), ({"keep_best": "metrics:max:3"}, "names no number"),
        ({"keep_best": "metrics..a:max:3"}, "names no number"), ({"keep_best": "labels.a:max:3"}, "metrics., params."),
        ({"keep_best": ":max:3"}, "metrics., params."), ({"keep_best": 3}, "takes text"),
        ({"keep_best": ["metrics.a:max:1", 3]}, "takes text"), ({"keep_best": {"metrics.a": 3}}, "takes text"),
        ({"keep_every": "metadata.step"}, "metadata.step:1000"), ({"keep_every": "metadata.step:0"}, "step:1000"),
        ({"keep_every": "metadata.step:-5"}, "step:1000"), ({"keep_every": "metadata.step:1e3"}, "step:1000"),
        ({"keep_label": "=x"}, "KEY=VALUE"), ({"keep_label": ""}, "KEY=VALUE"),
        ({"keep_label": "x" * 10_001}, "cannot be"),
        ({"keep_label": "a\0b"}, "cannot be"),
        ({"keep_within": "14"}, "such as 36h"), ({"keep_within": "6m"}, "write min or mo"),
        ({"keep_within": "1d6m"}, "write min or mo"), ({"keep_within": "0d"}, "no time"),
        ({"keep_within": "2fortnights"}, "the units are"), ({"keep_within": "1d "}, None),
        ({"keep_within": "d"}, "such as 36h"), ({"keep_within": "1d-2h"}, "the units are"),
        ({"keep_within": 14}, "36h"),
        ({"keep_within": timedelta(0)}, "no time"), ({"keep_within": ""}, "such as 36h"),
        ({"since_newest": True}, "give keep_within"), ({"keep_within": "1d", "since_newest": 1}, "true or false"),
        ({"keep_lats": 3}, "did you mean 'keep_last'"), ({"drop_all": True}, "no rule 'drop_all'"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused(said: dict[str, object], what: str | None) -> None:
    if what is None:
        assert KeepRules.of(said).keep_within == "1d"
        return
    with pytest.raises(casstore.InvalidPolicy, match=what.replace(".", r"\.").replace("(", r"\(")):
        KeepRules.of(said)


@tried
@given(st.dictionaries(st.sampled_from([*rules().__slots__, "x"]), st.one_of(st.text(), st.integers(), st.none())))
def test_any_rule_is_understood_or_refused(said: dict[str, object]) -> None:
    try:
        read = KeepRules.of(said)
    except (casstore.InvalidPolicy, casstore.InvalidQuery) as error:
        assert str(error)
    else:
        assert KeepRules.of(read.as_document()) == read
        decide(scored(1, 2), [read], NOW)


@pytest.mark.parametrize(
    "text", ["  ", "x" * 10_001, "a\0b", "size >", "siez > 1", "(" * 1000, "name = 'x", "1 = 1; --"]
)
def test_an_expression_is_understood_or_refused(text: str) -> None:
    with pytest.raises((casstore.InvalidQuery, casstore.InvalidPolicy)):
        rules(keep_where=text)


def test_a_time_is_a_timedelta_too() -> None:
    assert rules(keep_within=timedelta(days=2)).within_ns == rules(keep_within="2d").within_ns


@pytest.mark.parametrize(
    ("field", "paths"),
    [
        ("metrics.f1", ("metrics.f1", "f1")), ("metadata.step", ("step",)), ("params.lr", ("params.lr", "lr")),
        ("metrics.'eval.f1 (macro)'", ("metrics.eval.f1 (macro)", "eval.f1 (macro)")),
        ("metadata.\"a:b\".'it''s'", ("a:b.it's",)),
    ],
)  # fmt: skip
def test_where_a_number_stands(field: str, paths: tuple[str, ...]) -> None:
    (best,) = rules(keep_best=f"{field}:max:2").best
    assert best.field.paths == paths


def test_rules_as_they_are_typed() -> None:
    text = str(
        rules(keep_last=3, keep_best=["metrics.f1:max:1"], keep_within="1d", since_newest=True, keep_where="name > 'b'")
    )
    assert (
        text
        == r"--keep-last 3 --keep-best metrics.f1:max:1 --keep-within 1d --since-newest --keep-where 'name > '\''b'\'''"
    )
