"""`model.yaml`: the descriptor of a version, as BentoML 1.4 (`bentoml._internal.models.model.ModelInfo`) has it."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from casstore.actions.describing import plain_yaml
from casstore.actions.describing.times import timestamp
from casstore.description import SIGNATURE_FIELDS, Description
from casstore.errors import InvalidMetadata, InvalidSource, InvalidTag, UnsafeArchive
from casstore.late import LateModule
from casstore.late_classes import dataclass
from casstore.plain_json import canonical_json
from casstore.storage import bounded_yaml, files
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import Manifest
from casstore.tag import Tag

if TYPE_CHECKING:
    import base64

    import yaml
else:
    base64 = LateModule("base64")
    yaml = LateModule("yaml")

MAX_DESCRIPTOR_BYTES = 16 << 20
_CONTEXT_ORDER = ("framework_name", "framework_versions", "bentoml_version", "python_version")
_IN_EVERY = ("name", "version", "module", "labels", "context", "creation_time")  # also before BentoML 1.0
_SIGNATURES = "casstore_signatures"  # which BentoML passes over
_SIGNATURE_NAME = re.compile(r"model(-[0-9]{1,6})?\.sig")
_MOST_SIGNATURES = 100
_SIGNATURE_ORDER = ("batchable", "batch_dim", "input_spec", "output_spec")
_UTC = datetime.timezone.utc


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a `model.yaml` says. `notes`: what could not be kept as it stood there, in words for the user.

    `is_from_the_future`: the creation time that it claims has not come yet; now stands for it. `signatures`: the names
    of the files beside it, in an archive, which are no files of the version but its signatures.
    """

    tag: Tag
    description: Description
    created_at_ns: int
    notes: tuple[str, ...] = ()
    is_from_the_future: bool = False
    signatures: tuple[str, ...] = ()


def naming_signatures(rendered: bytes, names: Sequence[str]) -> bytes:
    """A rendered `model.yaml` that also names the files beside it, in an archive, which are signatures."""
    if not names:
        return rendered
    lines = [f"{_SIGNATURES}:", *(f"- {name}" for name in names)]
    return rendered + "".join(f"{line}\n" for line in lines).encode()


def render(manifest: Manifest) -> bytes:
    """`model.yaml` as BentoML 1.4 writes and reads it: a pure function of the manifest.

    BentoML refuses metadata that holds nulls. They are left out of mappings and are text in lists, and `metadata_json`,
    which it passes over, has them all.
    """
    description = manifest.description
    metadata = description.numbers
    for_bentoml = _without_nulls(metadata)
    context = {**description.context, "casstore_version": manifest.casstore_version}
    document = {
        "name": manifest.tag.name,
        "version": manifest.tag.version,
        "module": description.module,
        "labels": description.labels,
        "options": description.options,
        "metadata": for_bentoml,
        "context": _in_order(context, _CONTEXT_ORDER),
        "signatures": {
            name: _in_order(signature, _SIGNATURE_ORDER) for name, signature in description.signatures.items()
        },
        "api_version": description.api_version,
        "creation_time": timestamp(manifest.created_at_ns).isoformat(),
    }
    if for_bentoml != metadata:
        document["metadata_json"] = canonical_json(description.metadata)
    text = plain_yaml.dump(document) or _dumped(document)
    return text.encode("utf-8")


def _dumped(document: Mapping[str, Any]) -> str:
    # The C implementation where PyYAML was built with it; some twenty times faster, the same text.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text


def _in_order(fields: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """The fields in BentoML's order, others after them."""
    return {key: fields[key] for key in [*order, *fields] if key in fields}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return ["null" if item is None else _without_nulls(item) for item in value]
    return value


def _with_numbers(value: Any, shown: Any) -> Any:
    """A value out of `metadata_json`, with what JSON cannot hold from the same place of `metadata`: NaN, infinities."""
    if isinstance(shown, float) and not math.isfinite(shown):
        return shown
    if isinstance(value, dict) and isinstance(shown, dict):
        return {key: _with_numbers(item, shown.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(shown, list) and len(value) == len(shown):
        return [_with_numbers(*pair) for pair in zip(value, shown, strict=True)]
    return value


def check_replaceable(path: Path) -> None:
    """Let a save replace a `model.yaml` only if it is such a descriptor. Raises InvalidSource otherwise.

    A user's own file may well say name, version and creation time of something; every BentoML writes more.
    """
    try:
        if path.stat().st_size <= MAX_DESCRIPTOR_BYTES:
            missing = set(_IN_EVERY)
            for key in bounded_yaml.top_level_keys(files.read_file(path, MAX_DESCRIPTOR_BYTES)):
                missing.discard(key)
                if not missing:
                    return
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        pass
    raise InvalidSource(
        f"{path} would be replaced by the descriptor that casstore writes, and what it says would be lost; rename your "
        "file, or give labels and metadata in its place"
    )


def load(path: Path) -> Descriptor:
    """The descriptor that stands at `path`. Raises InvalidSource, as `read` does."""
    try:
        if path.stat().st_size > MAX_DESCRIPTOR_BYTES:
            raise InvalidSource(f"{path} is larger than {MAX_DESCRIPTOR_BYTES >> 20} MiB, which no descriptor is")
        return read(files.read_file(path, MAX_DESCRIPTOR_BYTES), str(path))
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read: {error.strerror}") from error


def read(data: bytes, name: str = DESCRIPTOR_NAME) -> Descriptor:
    """What a descriptor of BentoML's or casstore's says, trusting nothing. `name` is what errors call it.

    What JSON cannot hold is kept as text, with a note. A creation time of the future becomes now.
    Raises InvalidSource; UnsafeArchive when it asks for Python objects.
    """
    try:
        return _Reading(bounded_yaml.load(data)).result()
    except bounded_yaml.ForeignObject as error:
        raise UnsafeArchive(f"{name} is not read: {error}") from error
    except (InvalidTag, InvalidMetadata, ValueError, RecursionError) as error:
        raise InvalidSource(f"{name} is not a descriptor of a model: {error}") from error


@dataclass(slots=True)
class _Reading:
    document: Any
    _notes: list[str] = field(default_factory=list)

    def result(self) -> Descriptor:
        if not isinstance(self.document, dict):
            raise ValueError("it is not a mapping")
        name, version = self._text("name"), self._text("version")
        tag = Tag(name.lower(), version.lower())
        if (tag.name, tag.version) != (name, version):
            self._notes.append(f"its tag {name}:{version} is kept in lower case")
        description = Description(
            labels=self._labels(),
            metadata=self._metadata(),
            module=self._text("module", ""),
            api_version=self._text("api_version", "v1"),
            signatures=self._signatures(),
            options=self._plain("options", self._mapping("options")),
            context=self._context(),
        ).checked()
        created_at_ns, notes, is_from_the_future = created(self._creation_time())
        notes = (*self._notes, *notes)
        return Descriptor(tag, description, created_at_ns, notes, is_from_the_future, self._names_of_signatures())

    def _names_of_signatures(self) -> tuple[str, ...]:
        said = self.document.get(_SIGNATURES)
        if said is None:
            return ()
        if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
            raise ValueError(f"{_SIGNATURES} is not a list of names")
        if len(said) > _MOST_SIGNATURES or not all(map(_SIGNATURE_NAME.fullmatch, said)) or len({*said}) < len(said):
            raise ValueError(f"{_SIGNATURES} names what is no signature")
        return tuple(said)

    def _text(self, key: str, default: str | None = None) -> str:
        value = self.document.get(key, default)
        if isinstance(value, str):
            return value
        if value is None:
            if default is not None:
                return default
            raise ValueError(f"it has no {key!r}")
        raise ValueError(f"{key} is {value!r:.60}, not text; put it in quotes")

    def _mapping(self, key: str, within: Mapping[Any, Any] | None = None) -> dict[Any, Any]:
        value = (self.document if within is None else within).get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ValueError(f"{key} is not a mapping")
        return value

    def _labels(self) -> dict[str, str]:
        labels = {}
        for key, value in self._mapping("labels").items():
            if not isinstance(key, str) or not isinstance(value, str):
                self._notes.append(f"the label {key!s:.60} is kept as text")
            labels[str(key)] = str(value)
        return labels

    def _metadata(self) -> Any:
        text = self.document.get("metadata_json")
        if isinstance(text, str):
            with contextlib.suppress(ValueError, RecursionError):
                metadata = json.loads(text)
                if isinstance(metadata, dict):
                    return _with_numbers(metadata, self._mapping("metadata"))
        return self._plain("metadata", self._mapping("metadata"))

    def _signatures(self) -> dict[str, Any]:
        signatures = {}
        for name, given in self._mapping("signatures").items():
            if not isinstance(given, dict):
                raise ValueError(f"the signature {name!s:.60} is not a mapping")
            if unknown := sorted(str(key) for key in given.keys() - SIGNATURE_FIELDS):
                self._notes.append(f"the signature {name!s:.60} has lost its unknown field {unknown[0]:.60}")
            kept = {key: value for key, value in given.items() if key in SIGNATURE_FIELDS}
            signatures[str(name)] = self._plain(f"signatures.{name}", kept)
        return signatures

    def _context(self) -> dict[str, Any]:
        context: dict[str, Any] = self._plain("context", self._mapping("context"))
        context.pop("casstore_version", None)  # of the release that wrote the manifest, which is not of the description
        # BentoML before 1.0 wrote the first of these at the top, and requirements of pip in place of versions.
        context.setdefault("bentoml_version", self.document.get("bentoml_version", ""))
        context.setdefault("python_version", "")
        for key in ("framework_name", "bentoml_version", "python_version"):
            context[key] = "" if context.get(key) is None else str(context[key])
        versions = self._mapping("framework_versions", context)
        context["framework_versions"] = {key: str(version) for key, version in versions.items()}
        return context

    def _creation_time(self) -> int:
        value = self.document.get("creation_time")
        if isinstance(value, str):
            return moment_ns(value)
        if not isinstance(value, datetime.datetime):
            raise ValueError("it has no creation_time")
        return _in_ns(value)

    def _plain(self, place: str, value: Any) -> Any:
        """`value` in JSON's types, what they cannot hold as text."""
        if isinstance(value, dict):
            plain = {}
            for key, item in value.items():
                if not isinstance(key, str):
                    self._notes.append(f"the key {key!s:.60} in {place} is kept as text")
                plain[str(key)] = self._plain(f"{place}.{key}" if len(place) < 200 else place, item)
            return plain
        if isinstance(value, list):
            return [self._plain(place, item) for item in value]
        if isinstance(value, float) and not math.isfinite(value) and not place.startswith("metadata"):
            self._notes.append(f"{place} is {value}, which is kept as text")
            return str(value)
        if isinstance(value, bytes):
            self._notes.append(f"{place} is binary, which is kept as text in base 64")
            return base64.b64encode(value).decode("ascii")
        return value


class Created(NamedTuple):
    """When a version was made, as a `Descriptor` has it."""

    created_at_ns: int
    notes: tuple[str, ...]
    is_from_the_future: bool


def created(said_ns: int) -> Created:
    """What is kept of a creation time that others say. One of the future becomes now, with a note."""
    now_ns = time.time_ns()
    if said_ns > now_ns:
        return Created(now_ns, ("its creation time is in the future; now stands for it",), True)
    return Created(said_ns, (), False)


def moment_ns(text: str) -> int:
    """A time in ISO 8601, UTC where it does not say, as nanoseconds since 1970. Raises ValueError."""
    said = text.strip()
    # Python before 3.11 does not know the Z.
    said = said[:-1] + "+00:00" if said[-1:] in ("Z", "z") else said
    try:
        value = datetime.datetime.fromisoformat(said)
    except ValueError as error:
        raise ValueError(f"creation_time is {said[:60]!r}, which is not a time") from error
    return _in_ns(value)


def _in_ns(value: datetime.datetime) -> int:
    if value.tzinfo is None:
        value = value.replace(tzinfo=_UTC)
    try:
        since = value - datetime.datetime(1970, 1, 1, tzinfo=_UTC)
    except OverflowError as error:
        raise ValueError(f"creation_time is {value}, which is out of range") from error
    nanoseconds = (since // datetime.timedelta(microseconds=1)) * 1000
    if nanoseconds < -(1 << 63):
        raise ValueError(f"creation_time is {value}, which is out of range")
    return nanoseconds
