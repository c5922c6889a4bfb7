"""The language of searches, such as `metrics.acc > 0.9 and labels.stage = prod`: from text to a tree, and back.

    expr   = term { "or" term } ;  term = factor { "and" factor } ;  factor = "not" factor | "(" expr ")" | cmp
    cmp    = field ( op value | ["not"] "in" "(" value { "," value } ")" | "like" value | "exists" ) | "pinned"
    op     = "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "~"
    field  = root { "." ( word | quoted ) }
    value  = number [ unit ] | quoted | word | "true" | "false"

A tree is checked as it is made: each comparison in it has a meaning. `str` of a tree is text that gives the same tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from casstore.errors import InvalidQuery
from casstore.late import LateModule
from casstore.late_classes import dataclass

if TYPE_CHECKING:
    import difflib
else:
    difflib = LateModule("difflib")

MOST_CHARACTERS = 10_000
MOST_DEPTH = 50
MOST_NS = (1 << 63) - 1  # that SQLite holds as an integer
# Fields of a version, by the kind of their values, and those that have paths of their own below them.
_KINDS = {
    "tag": "text", "name": "text", "version": "text", "size": "bytes", "files": "count", "created": "time",
    "opened": "time", "pinned": "flag", "base": "text", "digest": "text", "alias": "text",
}  # fmt: skip
_PATHS = {"labels": "KEY", "metadata": "PATH", "metrics": "NAME", "params": "NAME"}
FIELDS = (*_KINDS, *(f"{root}.{path}" for root, path in _PATHS.items()))

_OPERATORS = {"=": "=", "==": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "~": "~"}
ORDERING = frozenset(("<", "<=", ">", ">="))
_MISTAKES = {"&&": "and", "&": "and", "||": "or", "|": "or", "!": "not", "<>": "!=", "=~": "~", "!~": "not ... ~"}
_KEYWORDS = frozenset(("and", "or", "not", "in", "like", "exists"))
_BARE = r"[^\s()',\"=<>!~&|]"
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
_TOKEN = re.compile(
    rf"(?P<space>\s+)|(?P<word>{_BARE}+(?:(?<=\.)(?:{_QUOTED}){_BARE}*)*)|(?P<quoted>{_QUOTED})"
    r"|(?P<mark>[(),])|(?P<operator>[=<>!~&|]+)"
)
_SEGMENT = re.compile(rf"({_QUOTED}|[^.'\"]*)(\.|$)")
_PLAIN = re.compile(r"[\w/+@%#-]+")  # what needs no quotes in a path
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([A-Za-z]*)", re.ASCII)
_DECIMAL, _BINARY = 1000, 1024
_BYTES = {"b": 1} | {f"{p}b": _DECIMAL**n for n, p in enumerate("kmgtp", 1)}
_BYTES |= {f"{p}ib": _BINARY**n for n, p in enumerate("kmgtp", 1)}
_SECONDS = {
    "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "mo": 30 * 86_400, "y": 365 * 86_400,
}  # fmt: skip
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ](\d\d(?::\d\d(?::\d\d(?:\.\d+)?)?)?)(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)
# How long a time lasts, by how many characters say the time of day: "2026-11-01 12:30" is a minute.
_LENGTHS = {0: timedelta(days=1), 2: timedelta(hours=1), 5: timedelta(minutes=1), 8: timedelta(seconds=1)}
_MOST_DIGITS = 18  # of an integer that SQLite holds exactly
_CONTEXT = 32  # characters of an expression that are shown on either side of an error


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a version. `path`: below labels, metadata, metrics or params, with dots between its parts."""

    root: str
    path: str | None = None

    @property
    def kind(self) -> str:
        """What its values are: text, bytes, count, time, flag, or any."""
        return _KINDS.get(self.root, "text" if self.root == "labels" else "any")

    def __str__(self) -> str:
        if self.path is None:
            return self.root
        return ".".join([self.root, *(p if _PLAIN.fullmatch(p) else quoted(p) for p in self.path.split("."))])


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written, such as "1.5GiB" or "7d"."""

    text: str

    @property
    def unit(self) -> str:
        """What it counts: bytes, seconds, or an empty text."""
        unit = self._parts()[1]
        return "bytes" if unit.lower() in _BYTES else "seconds" if unit in _SECONDS else ""

    @property
    def amount(self) -> int | float:
        """The number, in bytes or seconds where it has a unit."""
        digits, unit = self._parts()
        factor = _BYTES.get(unit.lower()) or _SECONDS.get(unit, 1)
        is_whole = digits.lstrip("+-").isdigit() and len(digits) <= _MOST_DIGITS
        product = int(digits) * factor if is_whole else float(digits) * factor
        return product if abs(product) < 1 << 63 else float(product)

    def _parts(self) -> Sequence[str]:
        return _NUMBER.findall(self.text)[0]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Text:
    """Text, quoted or not."""

    text: str

    def __str__(self) -> str:
        return quoted(self.text)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    value: bool

    @property
    def text(self) -> str:
        """As a label has it."""
        return "true" if self.value else "false"

    def __str__(self) -> str:
        return self.text


Value = Number | Text | Flag


@dataclass(frozen=True, slots=True)
class Comparison:
    """One test of one field. `operator`: one of = != < <= > >= ~ like in exists, or "not in"."""

    field: Field
    operator: str
    values: tuple[Value, ...] = ()

    def __str__(self) -> str:
        if self.operator == "exists":
            return f"{self.field} exists"
        if self.operator.endswith("in"):
            return f"{self.field} {self.operator} ({', '.join(map(str, self.values))})"
        return f"{self.field} {self.operator} {self.values[0]}"


@dataclass(frozen=True, slots=True)
class AllOf:
    """What fits each of its parts, of which there are at least two."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, OneOf) else str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class OneOf:
    """What fits one of its parts, of which there are at least two."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class Not:
    """What does not fit its part."""

    part: Expression

    def __str__(self) -> str:
        return f"not ({self.part})" if isinstance(self.part, AllOf | OneOf) else f"not {self.part}"


Expression = Comparison | AllOf | OneOf | Not


@dataclass(frozen=True, slots=True)
class SortKey:
    """A field to sort by; `descending`: the largest first."""

    field: Field
    descending: bool = False

    def __str__(self) -> str:
        return f"{'-' if self.descending else ''}{self.field}"


def parse(text: str) -> Expression:
    """The tree of an expression. Raises InvalidQuery, which says where the text is at fault."""
    parser = _Parser(text)
    parser.check_size()
    found = parser.expression(0)
    parser.expect_end("and, or, or the end")
    return found


def parse_sort(keys: str | Sequence[str]) -> tuple[SortKey, ...]:
    """The fields to sort by: "-metrics.acc,name", or a list of such. Raises InvalidQuery."""
    found: list[SortKey] = []
    for text in [keys] if isinstance(keys, str) else keys:
        for field, token in _Parser(text).fields(may_be_minus=True):
            if field.path is None and field.root in _PATHS:
                raise _Parser(text).error(f"{field.root} has many values; say which one", token.position)
            found.append(SortKey(field, descending=text[token.position] == "-"))
    return tuple(found)


def parse_fields(texts: str | Sequence[str]) -> tuple[Field, ...]:
    """Fields that are wanted as columns: "tag,metrics.acc,labels", or a list of such. Raises InvalidQuery."""
    texts = [texts] if isinstance(texts, str) else texts
    return tuple(field for text in texts for field, _ in _Parser(text).fields(may_be_minus=False))


def fields_of(expression: Expression) -> Iterator[Field]:
    """The fields that an expression compares, in order."""
    if isinstance(expression, Comparison):
        yield expression.field
    elif isinstance(expression, Not):
        yield from fields_of(expression.part)
    else:
        for part in expression.parts:
            yield from fields_of(part)


def all_of(parts: Sequence[Expression]) -> Expression:
    """What fits all of these, of which there is one at least."""
    if len(parts) == 1:
        return parts[0]
    flat = (each.parts if isinstance(each, AllOf) else (each,) for each in parts)
    return AllOf(tuple(part for each in flat for part in each))


def any_of(parts: Sequence[Expression]) -> Expression:
    """What fits one of these, of which there is one at least."""
    if len(parts) == 1:
        return parts[0]
    flat = (each.parts if isinstance(each, OneOf) else (each,) for each in parts)
    return OneOf(tuple(part for each in flat for part in each))


def span_ns(text: str) -> tuple[int, int] | None:
    """When a date or a time begins and ends, in UTC nanoseconds; None if it is neither.

    One without an offset is in the local time of this machine, as tables on a terminal show times.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    try:
        begin = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    length = _LENGTHS.get(len(found[1] or ""), timedelta(microseconds=1))
    try:
        end = begin + length
    except OverflowError:  # the very end of the year 9999
        return _ns(begin), MOST_NS
    return _ns(begin), _ns(end)


def quoted(text: str) -> str:
    """Text between quotes, as an expression has it."""
    return "'" + text.replace("'", "''") + "'"


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _ns(moment: datetime) -> int:
    try:
        in_utc = moment.astimezone(timezone.utc)
    except (OverflowError, ValueError, OSError):  # the first or the last day that there is
        in_utc = moment.replace(tzinfo=timezone.utc)
    exact = (in_utc - _EPOCH) // timedelta(microseconds=1) * 1000
    return max(-MOST_NS, min(exact, MOST_NS))


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # word, quoted, mark, operator, end
    text: str
    position: int

    def is_keyword(self, word: str) -> bool:
        return self.kind == "word" and self.text.lower() == word

    @property
    def shown(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


class _Parser:
    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise InvalidQuery(f"an expression is text, not {type(text).__name__}")
        self._text = text
        self._tokens = list(self._split())
        self._next = 0

    def check_size(self) -> None:
        if self._tokens[0].kind == "end":
            raise self.error(f"the expression is empty; write one such as {_EXAMPLE}", 0)

    def _split(self) -> Iterator[_Token]:
        text = self._text
        if len(text) > MOST_CHARACTERS:
            raise InvalidQuery(f"an expression has {MOST_CHARACTERS:,} characters at most; this one has {len(text):,}")
        unfit = re.search("[\0\ud800-\udfff]", text)
        if unfit is not None:
            raise self.error("this character cannot be looked for", unfit.start())
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise self.error("a quote is not closed", position)
            if found.lastgroup != "space":
                yield _Token(str(found.lastgroup), found[0], position)
            position = found.end()
        yield _Token("end", "", len(text))

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def error(
        self, what: str, position: int, suggestion: str | None = None, unknown: str | None = None
    ) -> InvalidQuery:
        """The error that shows this place of the text."""
        return InvalidQuery(what, excerpt(self._text, position), suggestion, unknown)

    def _unexpected(self, what: str, token: _Token) -> InvalidQuery:
        if token.kind == "operator" and token.text in _MISTAKES:
            return self.error(f"{token.text!r} is written {_MISTAKES[token.text]!r} here", token.position)
        return self.error(f"expected {what}, not {token.shown}", token.position)

    def expect_end(self, what: str) -> None:
        if self._peek().kind != "end":
            raise self._unexpected(what, self._peek())

    def expression(self, depth: int) -> Expression:
        parts = [self._term(depth)]
        while self._peek().is_keyword("or"):
            self._take()
            parts.append(self._term(depth))
        return any_of(parts)

    def _term(self, depth: int) -> Expression:
        parts = [self._factor(depth)]
        while self._peek().is_keyword("and"):
            self._take()
            parts.append(self._factor(depth))
        return all_of(parts)

    def _factor(self, depth: int) -> Expression:
        token = self._peek()
        if depth > MOST_DEPTH:
            raise self.error(f"more than {MOST_DEPTH} parentheses and nots are within one another", token.position)
        if token.is_keyword("not"):
            self._take()
            return Not(self._factor(depth + 1))
        if token.text == "(" and token.kind == "mark":
            self._take()
            found = self.expression(depth + 1)
            if self._peek().text != ")" or self._peek().kind != "mark":
                raise self._unexpected("and, or, or ')'", self._peek())
            self._take()
            return found
        return self._comparison()

    def _comparison(self) -> Expression:
        token = self._take()
        field = self._field(token)
        sign = self._peek()
        if field.root in _PATHS and field.path is None:
            example = f"{field.root}.{_PATHS[field.root]}"
            raise self.error(f"{field.root} has many values; say which one, as {example}", token.position)
        if sign.is_keyword("exists"):
            self._take()
            return Comparison(field, "exists")
        is_negated = sign.is_keyword("not")
        if is_negated:
            self._take()
        if self._peek().is_keyword("in"):
            self._take()
            return Comparison(field, "not in" if is_negated else "in", self._values(field))
        if is_negated:
            raise self._unexpected("in", self._peek())
        if sign.is_keyword("like") or (sign.kind == "operator" and sign.text in _OPERATORS):
            self._take()
            operator = "like" if sign.kind == "word" else _OPERATORS[sign.text]
            return Comparison(field, operator, (self._value(field, operator, sign),))
        if field.kind == "flag":
            return Comparison(field, "=", (Flag(True),))
        if sign.kind == "end" or sign.text.lower() in _KEYWORDS:
            raise self.error(f"expected a comparison after {token.text!r}, such as '> 0.9' or 'exists'", sign.position)
        raise self._unexpected("=, !=, <, <=, >, >=, ~, in, like or exists", sign)

    def fields(self, *, may_be_minus: bool) -> Iterator[tuple[Field, _Token]]:
        """Fields with commas between, each of which may have a minus before it."""
        while True:
            token = self._take()
            yield self._field(token, skip=int(may_be_minus and token.text.startswith("-"))), token
            if self._peek().kind == "end":
                return
            if self._take().text != ",":
                raise self._unexpected("a comma", self._tokens[self._next - 1])

    def _field(self, token: _Token, skip: int = 0) -> Field:
        if token.kind != "word" or token.text.lower() in _KEYWORDS:
            raise self._unexpected("a field, such as metrics.acc", token)
        root, dot, rest = token.text[skip:].partition(".")
        if root not in _KINDS and root not in _PATHS:
            raise self._no_field(root, token)
        if not dot:
            return Field(root)
        if root in _KINDS:
            raise self.error(f"{root} has nothing below it", token.position)
        parts: list[str] = []
        position = 0
        while True:
            found = _SEGMENT.match(rest, position)
            if found is None or not found[1]:
                at = token.position + skip + len(root) + 1 + position
                raise self.error("a part of the path is missing; what has dots, quotes or blanks in it is quoted", at)
            part = found[1]
            parts.append(part[1:-1].replace(part[0] * 2, part[0]) if part[0] in "'\"" else part)
            position = found.end()
            if not found[2]:
                return Field(root, ".".join(parts))

    def _no_field(self, root: str, token: _Token) -> InvalidQuery:
        near = difflib.get_close_matches(root.lower(), [*_KINDS, *_PATHS], n=1)
        if near:
            meant = f"{near[0]}.{_PATHS[near[0]]}" if near[0] in _PATHS else near[0]
            return self.error(f"there is no field {root!r}; did you mean {meant}?", token.position, near[0], root)
        meant = f"metrics.{root}, metadata.{root} or labels.{root}"
        what = f"there is no field {root!r}; did you mean {meant}? The others are {', '.join(_KINDS)}"
        return self.error(what, token.position, f"metrics.{root}", root)

    def _values(self, field: Field) -> tuple[Value, ...]:
        opening = self._take()
        if opening.text != "(" or opening.kind != "mark":
            raise self._unexpected("'(' and values", opening)
        values = [self._value(field, "in", opening)]
        while self._peek().text == "," and self._peek().kind == "mark":
            values.append(self._value(field, "in", self._take()))
        closing = self._take()
        if closing.text != ")" or closing.kind != "mark":
            raise self._unexpected("',' or ')'", closing)
        return tuple(values)

    def _value(self, field: Field, operator: str, before: _Token) -> Value:
        token = self._take()
        if token.kind == "quoted":
            value: Value = Text(token.text[1:-1].replace(token.text[0] * 2, token.text[0]))
        elif token.kind == "word" and token.text.lower() not in _KEYWORDS:
            value = _bare_value(token.text)
        else:
            raise self.error(f"expected a value after {before.text!r}, not {token.shown}", token.position)
        fault = _fault(field, operator, value)
        if fault is not None:
            raise self.error(fault, token.position)
        return value


_EXAMPLE = "'metrics.acc > 0.9 and labels.stage = prod'"


def _bare_value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return Flag(text.lower() == "true")
    found = _NUMBER.fullmatch(text)
    if found is not None and (not found[2] or found[2].lower() in _BYTES or found[2] in _SECONDS):
        return Number(text)
    return Text(text)


def _fault(field: Field, operator: str, value: Value) -> str | None:
    """Why a field cannot be compared so; None where it can."""
    unit = value.unit if isinstance(value, Number) else ""
    if operator in ("~", "like"):
        return None if field.kind in ("text", "any") else f"{field} is no text, which is what {operator!r} is for"
    if field.kind == "text" and operator in ORDERING and not isinstance(value, Text):
        return f"{field} is text, which is neither more nor less than {value}; quote it to compare it as text"
    if field.kind == "bytes" and (not isinstance(value, Number) or unit == "seconds"):
        return f"{field} is compared with bytes, such as 500MB or 1.5GiB"
    if field.kind == "count" and (not isinstance(value, Number) or unit):
        return f"{field} is compared with a number"
    if field.kind == "flag" and not (isinstance(value, Flag) and operator not in ORDERING):
        return f"{field} is true or false: `{field}`, or `not {field}`"
    if field.kind == "time":
        return _fault_of_time(field, operator, value, unit)
    if field.kind == "any" and operator in ORDERING and isinstance(value, Flag):
        return "true and false are neither more nor less than anything"
    return None


def _fault_of_time(field: Field, operator: str, value: Value, unit: str) -> str | None:
    if isinstance(value, Number) and unit == "seconds":
        return None if operator in ORDERING else f"an age is compared with < or >, as in `{field} < 7d`"
    if isinstance(value, Text) and span_ns(value.text) is not None:
        return None
    return f"{field} is compared with an age, such as 12h, 7d or 2mo, or with a date, such as 2026-11-01"


def excerpt(text: str, position: int) -> str:
    """The part of an expression around a place, and a caret below that place, on two lines."""
    start, end = max(0, position - _CONTEXT), position + _CONTEXT
    before = ("…" if start else "") + _visible(text[start:position])
    after = _visible(text[position:end]) + ("…" if end < len(text) else "")
    return f"  {before}{after}\n  {' ' * len(before)}^"


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
