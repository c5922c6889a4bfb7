"""What a version says of itself: labels, metadata, signatures ... checked, and written as `model.yaml`.

The file follows BentoML 1.4 (`bentoml._internal.models.model.ModelInfo`), which reads it as its own.
"""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from casstore.errors import InvalidMetadata, InvalidSource
from casstore.storage.manifest import MAX_DESCRIPTION_CHARACTERS, Manifest, canonical_json

CUSTOM_OBJECTS_NAME = "custom_objects.pkl"
_MAX_DEPTH = 64
_MAX_DESCRIPTOR_BYTES = 16 << 20
_SIGNATURE_FIELDS = {"batchable", "batch_dim", "input_spec", "output_spec"}


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
    if len(canonical_json(description)) > MAX_DESCRIPTION_CHARACTERS:
        raise InvalidMetadata("labels, metadata and what else is said of a version take 16 MB at most; use a file")
    return description


def render(manifest: Manifest) -> bytes:
    """`model.yaml` as BentoML 1.4 writes and reads it: a pure function of the manifest."""
    description = manifest.description
    document = {
        "name": manifest.tag.name,
        "version": manifest.tag.version,
        "module": description["module"],
        "labels": description["labels"],
        "options": description["options"],
        "metadata": description["metadata"],
        "context": {**description["context"], "casstore_version": manifest.casstore_version},
        "signatures": description["signatures"],
        "api_version": description["api_version"],
        "creation_time": timestamp(manifest.created_at_ns).isoformat(),
    }
    text: str = yaml.dump(document, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    return text.encode("utf-8")


def check_replaceable(path: Path) -> None:
    """Let a save replace a `model.yaml` only if it is such a descriptor. Raises InvalidSource otherwise."""
    try:
        if path.stat().st_size <= _MAX_DESCRIPTOR_BYTES:
            missing = {"name", "version", "creation_time"}
            for key in _top_level_keys(path.read_bytes()):
                missing.discard(key)
                if not missing:
                    return
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError):
        pass
    raise InvalidSource(f"{path} would be replaced by the descriptor that casstore writes; rename your file")


def _top_level_keys(document: bytes) -> Iterator[str]:
    """The keys of the mapping that a YAML document is, in order. Raises yaml.YAMLError.

    Goes by the parser's events, as what they stand for is never needed: a value of a hundred kilobytes can take
    seconds to be made, and anchors can make a small document a huge object.
    """
    depth = nodes = 0
    for event in yaml.parse(document, Loader=_LOADER):
        if depth == 1 and isinstance(event, yaml.NodeEvent):
            if nodes % 2 == 0 and isinstance(event, yaml.ScalarEvent):
                yield event.value
            nodes += 1
        if isinstance(event, yaml.CollectionStartEvent):
            if depth == 0 and not isinstance(event, yaml.MappingStartEvent):
                return
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def timestamp(nanoseconds: int) -> datetime.datetime:
    """UTC nanoseconds since 1970 as a datetime, to the microsecond."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).replace(microsecond=rest // 1000)


# The C implementation where PyYAML was built with it; some twenty times faster, the same text.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    if unknown := given.keys() - _SIGNATURE_FIELDS:
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
    given.setdefault("python_version", platform.python_version())
    if not isinstance(given["framework_name"], str):
        raise InvalidMetadata("context: framework_name is text, such as 'torch'")
    versions = given["framework_versions"]
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise InvalidMetadata("context: framework_versions maps packages to versions, such as {'torch': '2.4.0'}")
    plain: dict[str, Any] = given
    return plain


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
