"""What a model says of itself, in BentoML's terms and in the text that BentoML writes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import platform
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from types import ModuleType
from typing import IO, Any

import yaml

from casstore import CasstoreError, InvalidMetadata, Tag


@dataclass(frozen=True)
class ModelContext:
    """Where a model comes from: the framework that wrote it, and the versions of what was installed."""

    framework_name: str
    framework_versions: dict[str, str]
    bentoml_version: str = ""  # what the store records when it is left out
    python_version: str = field(default_factory=platform.python_version)

    @staticmethod
    def from_dict(data: Any) -> ModelContext:
        """From a mapping or any object with `to_dict`; fields that are not known here are passed over."""
        if isinstance(data, ModelContext):
            return data
        given = as_dict("context", data)
        names = [each.name for each in dataclasses.fields(ModelContext)]
        return ModelContext(**{"framework_name": "", "framework_versions": {}, **_only(names, given)})

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `model.yaml`."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value or name != "bentoml_version"}


@dataclass(frozen=True)
class ModelSignature:
    """A method of the model: whether calls may be batched, and along which dimension of input and output."""

    batchable: bool = False
    batch_dim: tuple[int, int] = (0, 0)
    input_spec: Any = None
    output_spec: Any = None

    @classmethod
    def from_dict(cls, data: Any) -> ModelSignature:
        """From a mapping, or an object with the same fields; one number as `batch_dim` stands for both."""
        names = [each.name for each in dataclasses.fields(cls)]
        given = dict(data) if isinstance(data, Mapping) else {name: getattr(data, name) for name in names}
        if unknown := given.keys() - set(names):
            raise InvalidMetadata(f"a signature has no field {min(map(str, unknown))!r}")
        dimensions = given.get("batch_dim", (0, 0))
        given["batch_dim"] = (dimensions, dimensions) if isinstance(dimensions, int) else tuple(dimensions)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `model.yaml`: without what has no meaning or was not given."""
        plain: dict[str, Any] = {"batchable": self.batchable}
        if self.batchable:
            plain["batch_dim"] = self.batch_dim
        given = {"input_spec": self.input_spec, "output_spec": self.output_spec}
        return {**plain, **{name: spec for name, spec in given.items() if spec is not None}}


class ModelOptions:
    """How a model is to be loaded. Takes any options by name; a subclass, such as a dataclass, says which there are."""

    def __init__(self, **options: Any) -> None:
        vars(self).update(options)

    def with_options(self, **options: Any) -> ModelOptions:
        """The same with some options changed. Raises TypeError for one that a subclass does not have."""
        changed = copy(self)
        for name, value in options.items():
            if type(self) is not ModelOptions and name not in self.to_dict():
                raise TypeError(f"{type(self).__name__} has no option {name!r}")
            object.__setattr__(changed, name, value)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """The options by name."""
        # A class made by attrs has slots, which vars() does not see.
        fields = getattr(self, "__attrs_attrs__", None) or getattr(self, "__dataclass_fields__", {}).values()
        return {each.name: getattr(self, each.name) for each in fields} or dict(vars(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelOptions) and type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # as of anything that can be changed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"


class ModelInfo:
    """Name, version and description of a model; `dump` gives the text of `model.yaml`, as BentoML writes it."""

    def __init__(
        self,
        tag: Tag | str,
        module: str,
        labels: Mapping[str, str] | None,
        options: Any,
        metadata: Mapping[str, Any] | None,
        context: Any,
        signatures: Mapping[str, Any] | None,
        api_version: str,
        creation_time: datetime.datetime | None = None,
    ) -> None:
        self.tag = tag if isinstance(tag, Tag) else Tag.parse(str(tag))
        self.module = module
        self.labels = as_dict("labels", labels)
        self.metadata = as_dict("metadata", metadata)
        self.context = ModelContext.from_dict(context)
        self.signatures = {
            method: ModelSignature.from_dict(each) for method, each in as_dict("signatures", signatures).items()
        }
        self.api_version = api_version
        self.creation_time = creation_time or datetime.datetime.now(datetime.timezone.utc)
        self._plain_options = as_dict("options", options)
        self._options: Any = options if hasattr(options, "to_dict") else None

    @property
    def name(self) -> str:
        """The tag's first part."""
        return self.tag.name

    @property
    def version(self) -> str:
        """The tag's second part."""
        return self.tag.version

    @property
    def imported_module(self) -> ModuleType:
        """The module that saved the model and can load it, imported now. Raises CasstoreError where there is none."""
        if not self.module:
            raise CasstoreError(
                f"{self.tag} names no module that could load it: read its files below `path`, or save it with module="
            )
        try:
            return importlib.import_module(self.module)
        except (ValueError, ModuleNotFoundError) as error:
            raise CasstoreError(
                f"{self.tag} was saved by the module {self.module!r}, which cannot be imported: {error}"
            ) from error

    @property
    def options(self) -> Any:
        """The options, as the module's own `ModelOptions` where there is such a class, else as `ModelOptions`."""
        if self._options is None:
            kind = ModelOptions
            with contextlib.suppress(CasstoreError):
                kind = getattr(self.imported_module, "ModelOptions", ModelOptions)
            self._options = kind(**self._plain_options)
        return self._options

    def with_options(self, **options: Any) -> ModelInfo:
        """The same with some options changed."""
        changed = copy(self)
        changed._options = self.options.with_options(**options)
        changed._plain_options = as_dict("options", changed._options)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """What stands in `model.yaml`, in its order."""
        return {
            "name": self.name,
            "version": self.version,
            "module": self.module,
            "labels": dict(self.labels),
            "options": self._plain_options,
            "metadata": _plain(self.metadata),
            "context": self.context.to_dict(),
            "signatures": {method: each.to_dict() for method, each in self.signatures.items()},
            "api_version": self.api_version,
            "creation_time": self.creation_time.isoformat(),
        }

    def dump(self, stream: IO[str] | None = None) -> str | None:
        """`to_dict` as YAML: returned, or written to `stream`."""
        text: str | None = yaml.safe_dump(self.to_dict(), stream=stream, sort_keys=False)
        return text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelInfo) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # labels and metadata can be changed

    def __repr__(self) -> str:
        return f"ModelInfo(tag={str(self.tag)!r}, module={self.module!r})"


def as_dict(what: str, value: Any) -> dict[str, Any]:
    """A dict of its own, of a mapping, None, or an object with `to_dict`, as BentoML's are. Raises InvalidMetadata."""
    if value is None:
        return {}
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise InvalidMetadata(f"{what} is a dict, not {type(value).__name__}")
    return dict(value)


def _only(names: list[str], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _plain(value: Any) -> Any:
    """Values as the store keeps them, so that what is dumped before a save is what is dumped after it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value
