"""What is said of a version after its save: labels and metrics that were added, changed or taken away."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import field
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, cast

from casstore.errors import InvalidMetadata
from casstore.late_classes import dataclass
from casstore.plain_json import canonical_json, checked_text, mapping, plain_value

LABEL, METRIC = "label", "metric"
METRICS = "metrics"  # where in the metadata metrics stand
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_MOST_BITS = 63
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MOST_CHARACTERS = 1_000_000


class Annotation(NamedTuple):
    """One change of what is said of a version: see `Store.annotate`.

    Attributes
    ----------
    number
        Later changes of the versions of one name have larger numbers, whatever the clocks say.
    kind
        "label" or "metric".
    key
        The label's key, or the metric's name.
    value
        Text or a number; None: it was taken away.
    annotated_at_ns
        When it was said, in nanoseconds of UTC.
    actor
        Who said it, as user@host.
    """

    number: int
    kind: str
    key: str
    value: str | float | None
    annotated_at_ns: int
    actor: str

    @property
    def annotated_at(self) -> datetime:
        """When it was said, in UTC, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.annotated_at_ns // 1000)


def as_kept(value: str | float | None) -> str | float | None:
    """A value as catalog and log hold it: a metric that is not finite is text there, as no other metric is."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def as_said(kind: str, value: object) -> str | float | None:
    """What `as_kept` was given. Raises ValueError for what no annotation of that kind can have."""
    if value is None and kind in (LABEL, METRIC):
        return None
    if kind == METRIC and isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if kind == LABEL and isinstance(value, str):
        return value
    if kind == METRIC and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r:.40} is the value of no {kind:.10}")


@dataclass(frozen=True, slots=True)
class Annotated:
    """What holds now of all that was said after the save; None stands for what was taken away."""

    labels: Mapping[str, str | None] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, annotations: Iterable[Annotation]) -> Annotated:
        """What holds after these, in their order."""
        said: dict[str, dict[str, Any]] = {LABEL: {}, METRIC: {}}
        for each in annotations:
            said[each.kind][each.key] = each.value
        return cls(said[LABEL], said[METRIC])

    @classmethod
    def parse(cls, text: str | None) -> Annotated:
        """What `text` has made. Raises ValueError, TypeError, LookupError, AttributeError, RecursionError."""
        if text is None:
            return _nothing()
        document = json.loads(text)
        said = {kind: {key: as_said(kind, value) for key, value in document[kind].items()} for kind in (LABEL, METRIC)}
        return cls(cast("dict[str, str | None]", said[LABEL]), cast("dict[str, float | None]", said[METRIC]))

    @property
    def text(self) -> str | None:
        """It as canonical JSON; None where nothing was said."""
        if not self.labels and not self.metrics:
            return None
        metrics = {key: as_kept(value) for key, value in self.metrics.items()}
        return canonical_json({LABEL: dict(self.labels), METRIC: metrics})

    def labels_over(self, saved: Mapping[str, str]) -> dict[str, str]:
        """The labels that hold now, where these were saved."""
        merged = {**saved, **self.labels}
        return {key: value for key, value in merged.items() if value is not None}

    def metadata_over(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata that holds now, where this was saved. A dotted name may mean what is nested."""
        if not self.metrics:
            return dict(saved)
        metrics = _copied(saved.get(METRICS))
        for name, value in self.metrics.items():
            place = _take_out(metrics, name)
            if value is not None:
                holder, key = place or (metrics, name)
                holder[key] = value
        return {**saved, METRICS: metrics} if metrics or METRICS in saved else dict(saved)


@functools.cache
def _nothing() -> Annotated:
    return Annotated()


def _copied(value: Any) -> dict[str, Any]:
    """The metrics in metadata as a dict of its own; empty where something else stands there."""
    if not isinstance(value, Mapping):
        return {}
    return {key: _copied(item) if isinstance(item, Mapping) else item for key, item in value.items()}


def _take_out(metrics: dict[str, Any], name: str) -> tuple[dict[str, Any], str] | None:
    """Take out what stands under a dotted name, nested or not; returns where it was."""
    first = None
    while (place := place_of(metrics, name)) is not None:
        holder, key = place
        del holder[key]
        first = first or place
    return first


def place_of(metrics: dict[str, Any], name: str) -> tuple[dict[str, Any], str] | None:
    """The dict, and the key in it, that a dotted name means; None where nothing stands there."""
    if name in metrics:
        return metrics, name
    head = ""
    for part in name.split(".")[:-1]:
        head = f"{head}.{part}" if head else part
        below = metrics.get(head)
        if isinstance(below, dict):
            place = place_of(below, name[len(head) + 1 :])
            if place is not None:
                return place
    return None


def checked_metrics(metrics: Any) -> dict[str, float]:
    """Metrics as they are kept: numbers by name, those of numpy and torch too. Raises InvalidMetadata."""
    checked: dict[str, float] = {}
    for name, given in mapping(METRICS, metrics).items():
        if not isinstance(name, str) or not name:
            raise InvalidMetadata(f"metrics map names to numbers, and {name!r:.60} is no name")
        value = plain_value(f"metrics[{name!r:.60}]", given, may_be_nan=True)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidMetadata(f"the metric {name!r:.60} is a number, not {given!r:.60}; text goes into a label")
        try:
            checked[checked_text(METRICS, name)] = value if value == 0 or _fits(value) else float(value)
        except OverflowError:
            raise InvalidMetadata(f"the metric {name!r:.60} is too large a number") from None
    return checked


def _fits(value: float) -> bool:
    return isinstance(value, float) or value.bit_length() <= _MOST_BITS


def check_size(labels: Mapping[str, str], metrics: Mapping[str, float]) -> None:
    """Raise InvalidMetadata for more than an annotation is for."""
    if sum(len(key) + len(value) for key, value in labels.items()) + sum(map(len, metrics)) > _MOST_CHARACTERS:
        raise InvalidMetadata("an annotation takes a million characters at most; save a file, as another version")
