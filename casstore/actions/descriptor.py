"""What a version says of itself: labels, metadata, signatures ... checked, in plain JSON types."""

from __future__ import annotations

import datetime
import functools
import json
import math
import platform
from collections.abc import Mapping
from typing import Any

from casstore.errors import InvalidMetadata
from casstore.storage.manifest import MAX_DESCRIPTION_CHARACTERS, canonical_json

CUSTOM_OBJECTS_NAME = "custom_objects.pkl"
_MAX_DEPTH = 64
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
    plain_signatures = {
        name: _signature(name, signature) for name, signature in mapping("signatures", signatures).items()
    }
    description = {
        "labels": _labels(labels),
        "metadata": _plain("metadata", mapping("metadata", metadata)),
        "module": module,
        "api_version": api_version,
        "signatures": plain_signatures,
        "options": _plain("options", mapping("options", options)),
        "context": _context(context),
    }
    text = canonical_json(description)
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


def _labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    plain = {}
    for key, value in mapping("labels", labels).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidMetadata(f"labels map text to text, and {key!r} maps to {value!r}; try str(...)")
        plain[_text("labels", key)] = _text(f"labels[{key!r}]", value)
    return plain


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


def _plain(field: str, value: Any, depth: int = 0) -> Any:
    """`value` in JSON's types; numpy scalars and arrays and dates are converted. Raises InvalidMetadata."""
    if depth > _MAX_DEPTH:
        raise InvalidMetadata(f"{field[:60]}... is nested more than {_MAX_DEPTH} deep, or contains itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(field, value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidMetadata(f"{field} is {value}, which JSON cannot hold; leave it out or write it as text")
        return float(value)
    if isinstance(value, Mapping):
        plain = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidMetadata(f"{field} has the key {key!r}; keys are text")
            plain[_text(field, key)] = _plain(f"{field}.{key}", item, depth + 1)
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(f"{field}[{number}]", item, depth + 1) for number, item in enumerate(value)]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    # numpy's scalars and arrays, and torch's tensors, without importing either.
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return _plain(field, value.tolist(), depth + 1)
    raise InvalidMetadata(
        f"{field} is a {type(value).__name__}, which JSON cannot hold; use text, numbers, lists and dicts, "
        "or custom_objects for Python objects"
    )


def _text(field: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidMetadata(f"{field} holds text that is not Unicode: {text!r}") from error
    return str(text)
