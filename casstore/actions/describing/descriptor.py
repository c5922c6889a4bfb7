"""What a version says of itself: labels, metadata, signatures ... checked, in plain JSON types."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
import platform
import reprlib
from collections.abc import Mapping, Set
from enum import Enum
from pathlib import PurePath
from typing import Any

from casstore.errors import InvalidMetadata
from casstore.storage import not_finite
from casstore.storage.manifest import MAX_DESCRIPTION_CHARACTERS, canonical_json

CUSTOM_OBJECTS_NAME = "custom_objects.pkl"
_MAX_DEPTH = 64
_MOST_BITS = 13_300  # of an integer: Python writes and reads 4,300 digits at most
_ARRAYS = {"numpy", "torch", "tensorflow", "ml_dtypes"}
# Of the BentoML whose layout this follows; written where none is installed.
_BENTOML_VERSION = "1.4.40"
SIGNATURE_FIELDS = {"batchable", "batch_dim", "input_spec", "output_spec"}


def describe(
    *,
    labels: Mapping[str, str] | None,
    metadata: Mapping[str, Any] | None,
    module: str,
    api_version: str,
    signatures: Mapping[str, Any] | None,
    options: Any,
    context: Any,
) -> dict[str, Any]:
    """The description that manifest and catalog keep, of plain JSON types. Raises InvalidMetadata."""
    for field, value in (("module", module), ("api_version", api_version)):
        if not isinstance(value, str):
            raise InvalidMetadata(f"{field} is text, not {type(value).__name__}")
        _text(field, value)
    plain_signatures = {
        name: _signature(name, signature) for name, signature in mapping("signatures", signatures).items()
    }
    description = {
        "labels": plain_labels(labels),
        "metadata": plain_mapping("metadata", metadata, may_be_nan=True),
        "module": module,
        "api_version": api_version,
        "signatures": plain_signatures,
        "options": _plain("options", mapping("options", options)),
        "context": _context(context),
    }
    try:
        text = canonical_json(description)
    except ValueError:  # for what is not finite, which is rare
        text = canonical_json(not_finite.marked(description))
    if len(text) > MAX_DESCRIPTION_CHARACTERS:
        raise InvalidMetadata("labels, metadata and what else is said of a version take 16 MB at most; use a file")
    # As it will be read back, in the same order: what is rendered from either must be the same bytes.
    plain: dict[str, Any] = json.loads(text)
    return plain


def mapping(field: str, value: Any) -> Mapping[str, Any]:
    """`value` as a mapping, empty for None. Raises InvalidMetadata."""
    if value is None:
        return {}
    if hasattr(value, "to_dict"):  # BentoML's own ModelOptions and ModelContext
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise InvalidMetadata(f"{field} is a dict, not {type(value).__name__}")
    return value


def plain_mapping(field: str, value: Any, *, may_be_nan: bool = False) -> dict[str, Any]:
    """`value`, a mapping or None, in JSON's types; NaN and infinities are kept where they may be.

    What means one thing only is converted: paths, dates, members of enumerations and dtypes become text, sets and
    arrays lists, dataclasses dicts. Raises InvalidMetadata, naming key and value.
    """
    plain: dict[str, Any] = _plain(field, mapping(field, value), may_be_nan=may_be_nan)
    return plain


def plain_labels(labels: Mapping[str, Any] | None) -> dict[str, str]:
    """Labels as they are kept: numbers, booleans and what else `plain_mapping` makes one of are text.

    Raises InvalidMetadata, naming key and value.
    """
    return {str(key): label(key, value) for key, value in mapping("labels", labels).items()}


def label(key: Any, value: Any) -> str:
    """The text of one label: True is "true", as in JSON and YAML. Raises InvalidMetadata."""
    if not isinstance(key, str):
        raise InvalidMetadata(f"labels map text to text, and {_shown(key)} maps to {_shown(value)}; try str(...)")
    _text("labels", key)
    plain = None
    if not isinstance(value, list | tuple | Mapping):
        plain = _plain(f"labels[{key!r}]", value, may_be_nan=True)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, int | float):
        return str(plain)
    if not isinstance(plain, str):
        raise InvalidMetadata(f"labels map text to text, and {_shown(key)} maps to {_shown(value)}; try str(...)")
    return plain


def check(*, module: Any, api_version: Any, signatures: Any, options: Any, context: Any) -> None:
    """Raise InvalidMetadata where `describe` would; where none of these is given it costs nothing."""
    if signatures or options or context or (module, api_version) != ("", "v1"):
        describe(
            labels=None, metadata=None, module=module, api_version=api_version, signatures=signatures,
            options=options, context=context,
        )  # fmt: skip


def salvaged(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The description of what can be recorded of these fields, given as `describe` takes them, and what cannot, in
    words. A label, a method or an entry that is at fault is left out alone."""
    sound: dict[str, Any] = {"labels": {}, "metadata": {}, "module": "", "api_version": "v1"}
    sound |= {"signatures": {}, "options": {}, "context": {}}
    faults: list[str] = []
    for field, value in fields.items():
        parts = [{key: item} for key, item in value.items()] if isinstance(value, Mapping) else [value]
        for part in parts:
            merged = {**sound[field], **part} if isinstance(part, Mapping) else part
            try:
                describe(**{**sound, field: part})
            except Exception as error:  # noqa: BLE001 - values may raise anything, and the others are wanted
                faults.append(str(error) if isinstance(error, InvalidMetadata) else f"{field}: {error!r}")
            else:
                sound[field] = merged
    try:
        return describe(**sound), faults
    except InvalidMetadata as error:  # each was small enough, and together they are not
        return describe(**{**sound, "metadata": {}}), [*faults, str(error)]


def _signature(name: str, signature: Any) -> dict[str, Any]:
    field = f"signatures[{name!r}]"
    if not isinstance(name, str):
        raise InvalidMetadata(f"{field}: a method's name is text")
    given = dict(mapping(field, signature))
    if unknown := given.keys() - SIGNATURE_FIELDS:
        raise InvalidMetadata(f"{field} has the unknown field {min(map(str, unknown))!r}")
    plain: dict[str, Any] = {"batchable": given.get("batchable", False)}
    if not isinstance(plain["batchable"], bool):
        raise InvalidMetadata(f"{field}: batchable is True or False")
    dimensions = given.get("batch_dim", 0)
    if isinstance(dimensions, int):
        dimensions = (dimensions, dimensions)
    if not (isinstance(dimensions, (tuple, list)) and list(map(type, dimensions)) == [int, int]):
        raise InvalidMetadata(f"{field}: batch_dim is a number, or one for the input and one for the output")
    if plain["batchable"]:
        plain["batch_dim"] = list(dimensions)
    for spec in ("input_spec", "output_spec"):
        if given.get(spec) is not None:
            plain[spec] = _plain(f"{field}.{spec}", given[spec])
    return plain


def _context(context: Any) -> dict[str, Any]:
    given = _plain("context", mapping("context", context))
    given.setdefault("framework_name", "")
    given.setdefault("framework_versions", {})
    given.setdefault("bentoml_version", _bentoml_version())
    given.setdefault("python_version", platform.python_version())
    if not isinstance(given["framework_name"], str):
        raise InvalidMetadata("context: framework_name is text, such as 'torch'")
    versions = given["framework_versions"]
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise InvalidMetadata("context: framework_versions maps packages to versions, such as {'torch': '2.4.0'}")
    plain: dict[str, Any] = given
    return plain


@functools.cache
def _bentoml_version() -> str:
    """Of the BentoML that is installed: some of what reads `model.yaml` goes by it."""
    import importlib.metadata  # here, since most commands need no such thing and it takes 15 ms

    try:
        return importlib.metadata.version("bentoml")
    except importlib.metadata.PackageNotFoundError:
        return _BENTOML_VERSION


def _plain(field: str, value: Any, depth: int = 0, *, may_be_nan: bool = False) -> Any:
    """`value` in JSON's types. Raises InvalidMetadata."""
    if depth > _MAX_DEPTH:
        raise InvalidMetadata(f"{field[:60]}... is nested more than {_MAX_DEPTH} deep, or contains itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        # One that is text or a number itself is kept as that, and so is one that stands for text.
        is_plain = isinstance(value, str | int | float) or isinstance(value.value, str)
        return _plain(field, value.value if is_plain else value.name or str(value), depth + 1, may_be_nan=may_be_nan)
    if isinstance(value, str):
        return _text(field, value)
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise InvalidMetadata(f"{field} is a number of more than 4,000 digits; write it as text")
        return int(value)
    if isinstance(value, float):
        if not (may_be_nan or math.isfinite(value)):
            raise InvalidMetadata(f"{field} is {value}, which JSON cannot hold; leave it out or write it as text")
        return float(value)

    def within(place: str, item: Any) -> Any:
        return _plain(place, item, depth + 1, may_be_nan=may_be_nan)

    if isinstance(value, Mapping):
        plain = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidMetadata(
                    f"{field} has the key {_shown(key)} (with {_shown(item)}); keys are text: try str(...)"
                )
            plain[_text(field, key)] = within(f"{field}.{key}", item)
        return plain
    if isinstance(value, (list, tuple)):
        return [within(f"{field}[{number}]", item) for number, item in enumerate(value)]
    if isinstance(value, Set):
        return _in_order([within(f"{field}[{_shown(item)}]", item) for item in value])
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, PurePath):
        return _text(field, str(value))
    # numpy's scalars and arrays, and torch's tensors, without importing either.
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return within(field, value.tolist())
    if _is_dtype(value):
        return str(getattr(value, "name", value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return {name: within(f"{field}.{name}", getattr(value, name, None)) for name in names}
    raise InvalidMetadata(
        f"{field} is of type {type(value).__name__}, {_shown(value)}, which JSON cannot hold; use text, numbers, "
        "lists and dicts, or custom_objects for Python objects"
    )


def _is_dtype(value: Any) -> bool:
    """Whether that is a dtype or a device of numpy, torch or one of their kin, none of which is imported here."""
    return any(
        kind.__name__.lower() in ("dtype", "device") and kind.__module__.partition(".")[0] in _ARRAYS
        for kind in type(value).__mro__
    )


def _in_order(items: list[Any]) -> list[Any]:
    """The items of a set, always in the same order."""
    try:
        return sorted(items)
    except TypeError:  # of several types
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _shown(value: Any) -> str:
    """A value in an error's message, cut short."""
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - objects may raise anything
        return f"<{type(value).__name__}>"


def _text(field: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidMetadata(f"{field} holds text that is not Unicode: {text!r}") from error
    return text if type(text) is str else str.__str__(text)  # what a subclass says of itself may be another text
