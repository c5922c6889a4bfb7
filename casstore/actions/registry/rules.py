"""The rules by which versions are kept: from what a user says to values, to the JSON of a policy, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from casstore.catalog import query
from casstore.errors import InvalidPolicy
from casstore.late import LateModule
from casstore.notebook import Shown

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")

PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")
_ROOTS = ("metrics", "params", "metadata")
_MOST_COUNT = 1_000_000_000
_MOST_DIGITS = 18
_MOST_CHARACTERS = 10_000
_SPAN = re.compile(r"(\d{1,9})([a-z]+)", re.ASCII)
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "mo": 30 * 86_400, "y": 365 * 86_400}
_NS = 1_000_000_000
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
_SEGMENT = re.compile(rf"({_QUOTED}|[^.'\"]+)(\.|$)")


@dataclass(frozen=True, slots=True)
class Field:
    """A number in the metadata of a version, such as `metrics.f1`, as a user has written it."""

    text: str

    @property
    def paths(self) -> tuple[str, ...]:
        """Where it may stand in the metadata; where it stands in the first, the others do not count."""
        root, _, rest = self.text.partition(".")
        path = ".".join(part[1:-1].replace(part[0] * 2, part[0]) if part[0] in "'\"" else part for part in _parts(rest))
        return (path,) if root == "metadata" else (f"{root}.{path}", path)


@dataclass(frozen=True, slots=True)
class Best:
    """Keep the `count` versions with the largest value of a field, or with the least."""

    field: Field
    is_max: bool
    count: int

    @classmethod
    def parse(cls, text: str) -> Best:
        """Read `FIELD:max:N` or `FIELD:min:N`. Raises InvalidPolicy."""
        parts = text.rsplit(":", 2)
        if len(parts) != 3 or parts[1] not in ("max", "min"):
            raise InvalidPolicy(
                f"keep-best takes FIELD:max:N or FIELD:min:N, such as metrics.f1:max:3, not {text!r:.200}"
            )
        return cls(_field("keep-best", parts[0]), parts[1] == "max", _count("keep-best", parts[2]))

    def __str__(self) -> str:
        return f"{self.field.text}:{'max' if self.is_max else 'min'}:{self.count}"


@dataclass(frozen=True, slots=True)
class Every:
    """Of each `step` of a field keep the first version: the one with the least value."""

    field: Field
    step: Fraction
    text: str

    @classmethod
    def parse(cls, text: str) -> Every:
        """Read `FIELD:N`. Raises InvalidPolicy."""
        name, _, number = text.rpartition(":")
        is_number = re.fullmatch(r"\d{1,18}(\.\d{1,18})?", number, re.ASCII) is not None
        if not name or not is_number or not Fraction(number):
            raise InvalidPolicy(f"keep-every takes FIELD:N, such as metadata.step:1000, not {text!r:.200}")
        return cls(_field("keep-every", name), Fraction(number), number)

    def __str__(self) -> str:
        return f"{self.field.text}:{self.text}"


@dataclass(frozen=True, slots=True)
class Label:
    """Keep the versions with a label; `value` None: whatever it says."""

    key: str
    value: str | None

    @classmethod
    def parse(cls, text: str) -> Label:
        """Read `K=V` or `K`. Raises InvalidPolicy."""
        key, equals, value = text.partition("=")
        if not key:
            raise InvalidPolicy(f"keep-label takes KEY=VALUE, or KEY for any value, not {text!r:.200}")
        return cls(key, value if equals else None)

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"


@dataclass(frozen=True, slots=True)
class KeepRules(Shown):
    """Rules by which versions of a name are kept: one that any of them keeps stays. `Store.forget` explains each.

    Attributes
    ----------
    keep_last
        So many of the newest.
    keep_best
        `FIELD:max:N` or `FIELD:min:N`, each.
    keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly
        The newest of each of the last so many hours, days, weeks, months and years that have any.
    keep_within
        All that are not older than that, such as "14d".
    since_newest
        Whether `keep_within` counts from the newest version, and not from now.
    keep_every
        `FIELD:N`, each.
    keep_label
        `KEY=VALUE` or `KEY`, each.
    keep_where
        Expressions to search by.
    """

    keep_last: int | None = None
    keep_best: tuple[str, ...] = ()
    keep_hourly: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_yearly: int | None = None
    keep_within: str | None = None
    since_newest: bool = False
    keep_every: tuple[str, ...] = ()
    keep_label: tuple[str, ...] = ()
    keep_where: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> KeepRules:
        """Read rules as a caller gives them, or as a stored policy has them.

        Parameters
        ----------
        said
            Values by the names of these attributes; None and nothing are no rule.

        Returns
        -------
        KeepRules
            The rules.

        Raises
        ------
        InvalidPolicy
            One cannot be understood.
        InvalidQuery
            An expression cannot be understood.
        """
        given = {name: value for name, value in said.items() if value is not None}
        unknown = sorted(given.keys() - _NAMES)
        if unknown:
            near = difflib.get_close_matches(unknown[0], _NAMES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidPolicy(f"there is no rule {unknown[0]!r:.80} to keep versions by{hint}")
        counts: dict[str, Any] = {name: _count(name, given[name]) for name in _COUNTS if name in given}
        texts: dict[str, Any] = {name: _checked(name, given[name]) for name in _PARSERS if name in given}
        within = None if "keep_within" not in given else _span(given["keep_within"])
        since_newest = given.get("since_newest", False)
        if type(since_newest) is not bool:
            raise InvalidPolicy("since_newest is true or false")
        if since_newest and within is None:
            raise InvalidPolicy("since_newest says from when keep_within counts; give keep_within too, such as 14d")
        return cls(**counts, **texts, keep_within=within, since_newest=since_newest)

    @property
    def is_empty(self) -> bool:
        """Whether there is no rule in it."""
        return self == KeepRules()

    @property
    def best(self) -> tuple[Best, ...]:
        """The rules of `keep_best`."""
        return tuple(map(Best.parse, self.keep_best))

    @property
    def every(self) -> tuple[Every, ...]:
        """The rules of `keep_every`."""
        return tuple(map(Every.parse, self.keep_every))

    @property
    def labels(self) -> tuple[Label, ...]:
        """The rules of `keep_label`."""
        return tuple(map(Label.parse, self.keep_label))

    @property
    def within_ns(self) -> int | None:
        """The nanoseconds of `keep_within`."""
        return None if self.keep_within is None else _span_ns(self.keep_within)

    @property
    def has_ages(self) -> bool:
        """Whether some rule goes by when versions were made."""
        return self.keep_within is not None or any(getattr(self, f"keep_{period}") for period in PERIODS)

    def as_document(self) -> dict[str, Any]:
        """Return the rules that are given, as JSON has them.

        Returns
        -------
        dict[str, Any]
            Values by the names of these attributes.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None and value != () and value is not False
        }

    def __str__(self) -> str:
        parts = []
        for name, value in self.as_document().items():
            option = f"--{name.replace('_', '-')}"
            values = value if isinstance(value, list) else [value]
            parts += [option if each is True else f"{option} {_shown(str(each))}" for each in values]
        return " ".join(parts)


def _expression(text: str) -> str:
    """An expression that can be understood, as it was written. Raises InvalidQuery."""
    query.parse(text)
    return text.strip()


_NAMES = {each.name for each in fields(KeepRules)}
_COUNTS = ("keep_last", *(f"keep_{period}" for period in PERIODS))
_PARSERS: Mapping[str, Callable[[str], object]] = {
    "keep_best": Best.parse, "keep_every": Every.parse, "keep_label": Label.parse, "keep_where": _expression,
}  # fmt: skip


def _shown(text: str) -> str:
    return text if re.fullmatch(r"[\w.:=-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def _checked(name: str, value: object) -> tuple[str, ...]:
    """Texts of a rule, each once, as they are kept. Raises InvalidPolicy."""
    option = name.replace("_", "-")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | bytes):
        raise InvalidPolicy(f"{option} takes text, or several texts, not {type(value).__name__}")
    found: dict[str, None] = {}
    for text in texts:
        if not isinstance(text, str):
            raise InvalidPolicy(f"{option} takes text, not {type(text).__name__}")
        if len(text) > _MOST_CHARACTERS or re.search("[\0\ud800-\udfff]", text):
            raise InvalidPolicy(f"{option} cannot be {text!r:.80}")
        read = str(_PARSERS[name](text))
        if not read:
            raise InvalidPolicy(f"{option} is empty; is a variable unset?")
        found[read] = None
    return tuple(found)


def _count(name: str, value: object) -> int:
    option = name.replace("_", "-")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS:
        value = int(value)
    if type(value) is not int or not 0 < value <= _MOST_COUNT:
        raise InvalidPolicy(f"{option} takes a number of versions from 1 on, not {value!r:.40}; leave it out for none")
    return value


def _parts(path: str) -> list[str]:
    """The parts of a path, quoted or not; none where it is no path."""
    found, position = [], 0
    while (match := _SEGMENT.match(path, position)) is not None:
        found.append(match[1])
        position = match.end()
        if not match[2]:
            return found
    return []


def _field(option: str, text: str) -> Field:
    root, _, rest = text.partition(".")
    if root in _ROOTS and _parts(rest):
        return Field(text)
    if root in _ROOTS:
        raise InvalidPolicy(f"{option}: {text!r:.200} names no number; say which, such as {root}.loss")
    hint = f"; did you mean 'metrics.{text}'?" if _parts(text) else ""
    raise InvalidPolicy(f"{option} goes by a number below metrics., params. or metadata., not {text!r:.200}{hint}")


def _span(value: object) -> str:
    """How long, as text such as "14d". Raises InvalidPolicy."""
    if isinstance(value, timedelta):
        value = f"{int(value.total_seconds())}s"
    if not isinstance(value, str) or not value or not _SPAN.match(value):
        raise InvalidPolicy(
            f"keep-within takes a number and a unit, such as 36h, 14d, 8w, 6mo or 1y6mo, not {value!r:.40}"
        )
    text = value.replace(" ", "").lower()
    if _span_ns(text) <= 0:
        raise InvalidPolicy(f"keep-within {value!r:.40} is no time at all")
    return text


def _span_ns(text: str) -> int:
    seconds, position = 0, 0
    while position < len(text):
        found = _SPAN.match(text, position)
        if found is not None and found[2] == "m":
            raise InvalidPolicy(f"keep-within {text!r:.40}: m may be minutes or months; write min or mo")
        if found is None or found[2] not in _SECONDS:
            units = ", ".join(_SECONDS)
            raise InvalidPolicy(f"keep-within {text!r:.40}: the units are {units}, each after a whole number")
        seconds += int(found[1]) * _SECONDS[found[2]]
        position = found.end()
    return seconds * _NS
