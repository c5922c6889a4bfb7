"""What a version says of itself: labels, metadata, signatures ... as one value, and its checks."""

from __future__ import annotations

import functools
import json
import operator
import sys
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, NoReturn

from casstore import not_finite
from casstore.errors import InvalidMetadata
from casstore.late_classes import dataclass
from casstore.plain_json import canonical_json, checked_text, mapping, plain_labels, plain_mapping, plain_value

CUSTOM_OBJECTS_NAME = "custom_objects.pkl"
SIGNATURE_FIELDS = {"batchable", "batch_dim", "input_spec", "output_spec"}
# More is refused when it is saved, so that a hostile one takes no gigabytes, and reading `model.yaml` no minutes.
MAX_DESCRIPTION_CHARACTERS = 16_000_000
# What is said of a version nests 64 deep at most when it is saved, each value's place in it not counted.
_MAX_NESTING = 80
# Of the BentoML whose layout this follows; written where none is installed.
_BENTOML_VERSION = "1.4.40"
_UNTRUSTED, _NOT_FINITE = "untrusted", "not_finite"


@dataclass(frozen=True, slots=True)
class Description:
    """What is said of a version.

    A caller's values may be of any kind; `checked` gives a description of plain JSON types, as manifest and catalog
    keep it and `of` and `parse` read it. There, what is not finite in the metadata is text, and `numbers` restores it.
    `is_untrusted`: its Python objects came in an archive that nobody has said may be trusted. `more`: what else its
    text holds, such as fields of a newer release.
    """

    labels: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""
    signatures: Mapping[str, Any] = field(default_factory=dict)
    options: Any = field(default_factory=dict)
    api_version: str = "v1"
    context: Any = field(default_factory=dict)
    is_untrusted: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> Description:
        """The description in a decoded document, with all that readers count on. Raises TypeError, LookupError."""
        _check_kinds(value)
        more = {} if len(value) == len(FIELDS) else {key: value[key] for key in value.keys() - _FIELD_SET}
        is_untrusted = bool(more.get(_UNTRUSTED))
        if more.get(_UNTRUSTED) is True:
            del more[_UNTRUSTED]
        said: tuple[Any, ...] = (*_VALUES(value), is_untrusted, more)
        return cls(*said)

    @classmethod
    def parse(cls, text: str) -> Description:
        """The description in canonical JSON, trusting nothing.

        Raises ValueError, TypeError, LookupError, RecursionError.
        """
        if len(text) > MAX_DESCRIPTION_CHARACTERS:
            raise ValueError("a description is too long")
        document = json.loads(text, parse_constant=_refuse_constant)
        description = cls.of(document)
        _check_nesting(document)
        canonical_json(document).encode()  # a lone surrogate, written as an escape, could not be saved again
        return description

    def document(self) -> dict[str, Any]:
        """The description as JSON has it, which `of` reads."""
        mark = {_UNTRUSTED: True} if self.is_untrusted else {}
        return {**self.said(), **mark, **self.more}

    def said(self) -> dict[str, Any]:
        """What the caller says, by the names in `FIELDS`."""
        return dict(zip(FIELDS, _ATTRIBUTES(self), strict=True))

    @property
    def text(self) -> str:
        """The description as canonical JSON, which `parse` reads."""
        return canonical_json(self.document())

    @property
    def numbers(self) -> dict[str, Any]:
        """The metadata, with NaN and infinities where text stands for them."""
        return not_finite.restored(dict(self.metadata), self.not_finite_places)

    @property
    def not_finite_places(self) -> Any:
        """The places of the metadata where text stands for NaN or an infinity; None where there are none."""
        return self.more.get(_NOT_FINITE)

    def checked(self) -> Description:
        """What a caller says, in plain JSON types, and no more than that. Raises InvalidMetadata."""
        for name, value in (("module", self.module), ("api_version", self.api_version)):
            if not isinstance(value, str):
                raise InvalidMetadata(f"{name} is text, not {type(value).__name__}")
            checked_text(name, value)
        signatures = mapping("signatures", self.signatures)
        plain: dict[str, Any] = {
            "labels": plain_labels(self.labels),
            "metadata": plain_mapping("metadata", self.metadata, may_be_nan=True),
            "module": self.module,
            "api_version": self.api_version,
            "signatures": {name: _signature(name, signature) for name, signature in signatures.items()},
            "options": plain_mapping("options", self.options),
            "context": _context(self.context),
        }
        try:
            text = canonical_json(plain)
        except ValueError:  # for what is not finite, which is rare
            metadata, places = not_finite.marked(plain["metadata"])
            text = canonical_json({**plain, "metadata": metadata, _NOT_FINITE: places})
        if len(text) > MAX_DESCRIPTION_CHARACTERS:
            raise InvalidMetadata("labels, metadata and what else is said of a version take 16 MB at most; use a file")
        # As it will be read back, in the same order: what is rendered from either must be the same bytes.
        return Description.of(json.loads(text))

    def check_early(self) -> None:
        """Raise InvalidMetadata where `checked` would for other than labels and metadata, which may still change."""
        if self.signatures or self.options or self.context or (self.module, self.api_version) != ("", "v1"):
            replace(self, labels={}, metadata={}).checked()

    def salvaged(self) -> tuple[Description, list[str]]:
        """What of it can be recorded, and what cannot, in words. A label, a method or an entry at fault is left out
        alone."""
        sound = Description()
        faults: list[str] = []
        for name, value in self.said().items():
            parts = [{key: item} for key, item in value.items()] if isinstance(value, Mapping) else [value]
            for part in parts:
                merged = {**getattr(sound, name), **part} if isinstance(part, Mapping) else part
                try:
                    sound._with(name, part).checked()
                except Exception as error:  # noqa: BLE001 - values may raise anything, and the others are wanted
                    faults.append(str(error) if isinstance(error, InvalidMetadata) else f"{name}: {error!r}")
                else:
                    sound = sound._with(name, merged)
        try:
            return sound.checked(), faults
        except InvalidMetadata as error:  # each was small enough, and together they are not
            return replace(sound, metadata={}).checked(), [*faults, str(error)]

    def completed(self) -> Description:
        """The description with what those of the first releases do not have."""
        return replace(self, context={"bentoml_version": "", "python_version": "", **self.context})

    def marked(self, *, is_untrusted: bool) -> Description:
        """The description with the mark of Python objects that are not trusted, or without."""
        more = {key: value for key, value in self.more.items() if key != _UNTRUSTED}
        return replace(self, is_untrusted=is_untrusted, more=more)

    def _with(self, name: str, value: Any) -> Description:
        changed: dict[str, Any] = {name: value}
        return replace(self, **changed)


# What a caller may say of a version: these names are listed nowhere else.
FIELDS = tuple(Description.__annotations__)[:7]
_FIELD_SET = frozenset(FIELDS)
_VALUES, _ATTRIBUTES = operator.itemgetter(*FIELDS), operator.attrgetter(*FIELDS)
# Of every description, in lists of tens of thousands.
_MAPPINGS = operator.itemgetter("labels", "metadata", "signatures", "options", "context")
_TEXTS = operator.itemgetter("module", "api_version")


def _check_kinds(value: Any) -> None:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.80} is not a description")
    if set(map(type, _MAPPINGS(value))) != {dict} or set(map(type, _TEXTS(value))) != {str}:
        raise TypeError("a part of a description is of another kind")
    if not {str}.issuperset(map(type, value["labels"].values())):
        raise TypeError("a label is not text")
    if not {dict}.issuperset(map(type, value["signatures"].values())):
        raise TypeError("one of the signatures is not a mapping")


def _check_nesting(value: object, depth: int = 0) -> None:
    """Raise ValueError for a value that nests too deep to be read or printed."""
    if depth > _MAX_NESTING:
        raise ValueError("a description nests too deep")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_nesting(each, depth + 1)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _signature(name: str, signature: Any) -> dict[str, Any]:
    place = f"signatures[{name!r}]"
    if not isinstance(name, str):
        raise InvalidMetadata(f"{place}: a method's name is text")
    given = dict(mapping(place, signature))
    if unknown := given.keys() - SIGNATURE_FIELDS:
        raise InvalidMetadata(f"{place} has the unknown field {min(map(str, unknown))!r}")
    plain: dict[str, Any] = {"batchable": given.get("batchable", False)}
    if not isinstance(plain["batchable"], bool):
        raise InvalidMetadata(f"{place}: batchable is True or False")
    dimensions = given.get("batch_dim", 0)
    if isinstance(dimensions, int):
        dimensions = (dimensions, dimensions)
    if not (isinstance(dimensions, (tuple, list)) and list(map(type, dimensions)) == [int, int]):
        raise InvalidMetadata(f"{place}: batch_dim is a number, or one for the input and one for the output")
    if plain["batchable"]:
        plain["batch_dim"] = list(dimensions)
    for spec in ("input_spec", "output_spec"):
        if given.get(spec) is not None:
            plain[spec] = plain_value(f"{place}.{spec}", given[spec])
    return plain


def _context(context: Any) -> dict[str, Any]:
    given = plain_mapping("context", context)
    given.setdefault("framework_name", "")
    given.setdefault("framework_versions", {})
    given.setdefault("bentoml_version", _bentoml_version())
    given.setdefault("python_version", sys.version.split()[0])
    if not isinstance(given["framework_name"], str):
        raise InvalidMetadata("context: framework_name is text, such as 'torch'")
    versions = given["framework_versions"]
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise InvalidMetadata("context: framework_versions maps packages to versions, such as {'torch': '2.4.0'}")
    return given


@functools.cache
def _bentoml_version() -> str:
    """Of the BentoML that is installed: some of what reads `model.yaml` goes by it."""
    import importlib.metadata  # here, since most commands need no such thing and it takes 15 ms

    try:
        return importlib.metadata.version("bentoml")
    except importlib.metadata.PackageNotFoundError:
        return _BENTOML_VERSION
