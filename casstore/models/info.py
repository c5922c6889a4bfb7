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
    """Where a model comes from.

    Attributes
    ----------
    framework_name
        The framework that wrote it.
    framework_versions
        Versions of the packages that matter.
    bentoml_version
        The release of BentoML; the store records one when it is left out.
    python_version
        The release of Python.
    """

    framework_name: str
    framework_versions: dict[str, str]
    bentoml_version: str = ""  # what the store records when it is left out
    python_version: str = field(default_factory=platform.python_version)

    @staticmethod
    def from_dict(data: Any) -> ModelContext:
        """Make a context of a mapping, or of an object with `to_dict`. Unknown fields are passed over.

        Parameters
        ----------
        data
            The mapping or object.

        Returns
        -------
        ModelContext
            The context.
        """
        if isinstance(data, ModelContext):
            return data
        given = as_dict("context", data)
        names = [each.name for each in dataclasses.fields(ModelContext)]
        return ModelContext(**{"framework_name": "", "framework_versions": {}, **_only(names, given)})

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in `model.yaml`.

        Returns
        -------
        dict[str, Any]
            Field to value.
        """
        return {name: value for name, value in dataclasses.asdict(self).items() if value or name != "bentoml_version"}


@dataclass(frozen=True)
class ModelSignature:
    """A method of the model.

    Attributes
    ----------
    batchable
        Whether calls may be batched.
    batch_dim
        Along which dimension of input and output.
    input_spec, output_spec
        What BentoML records of its arguments and result.
    """

    batchable: bool = False
    batch_dim: tuple[int, int] = (0, 0)
    input_spec: Any = None
    output_spec: Any = None

    @classmethod
    def from_dict(cls, data: Any) -> ModelSignature:
        """Make a signature of a mapping, or of an object with these fields. One number as `batch_dim` stands for both.

        Parameters
        ----------
        data
            The mapping or object.

        Returns
        -------
        ModelSignature
            The signature.

        Raises
        ------
        InvalidMetadata
            There is a field that no signature has.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        given = dict(data) if isinstance(data, Mapping) else {name: getattr(data, name) for name in names}
        if unknown := given.keys() - set(names):
            raise InvalidMetadata(f"a signature has no field {min(map(str, unknown))!r}")
        dimensions = given.get("batch_dim", (0, 0))
        given["batch_dim"] = (dimensions, dimensions) if isinstance(dimensions, int) else tuple(dimensions)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in `model.yaml`: without what has no meaning or was not given.

        Returns
        -------
        dict[str, Any]
            Field to value.
        """
        plain: dict[str, Any] = {"batchable": self.batchable}
        if self.batchable:
            plain["batch_dim"] = self.batch_dim
        given = {"input_spec": self.input_spec, "output_spec": self.output_spec}
        return {**plain, **{name: spec for name, spec in given.items() if spec is not None}}


class ModelOptions:
    """How a model is to be loaded. It takes any options by name; a subclass, such as a dataclass, says which there are.

    Parameters
    ----------
    options
        The options by name.
    """

    def __init__(self, **options: Any) -> None:
        vars(self).update(options)

    def with_options(self, **options: Any) -> ModelOptions:
        """Return a copy with some options changed.

        Parameters
        ----------
        options
            The options to change.

        Returns
        -------
        ModelOptions
            The copy.

        Raises
        ------
        TypeError
            A subclass has no such option.
        """
        changed = copy(self)
        for name, value in options.items():
            if type(self) is not ModelOptions and name not in self.to_dict():
                raise TypeError(f"{type(self).__name__} has no option {name!r}")
            object.__setattr__(changed, name, value)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name.

        Returns
        -------
        dict[str, Any]
            Name to value.
        """
        # A class made by attrs has slots, which vars() does not see.
        fields = getattr(self, "__attrs_attrs__", None) or getattr(self, "__dataclass_fields__", {}).values()
        return {each.name: getattr(self, each.name) for each in fields} or dict(vars(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelOptions) and type(self) is type(other) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"


class ModelInfo:
    """Name, version and description of a model.

    Parameters
    ----------
    tag
        `name:version`.
    module, labels, options, metadata, context, signatures, api_version
        As in `casstore.Store.create`.
    creation_time
        When it was saved; by default now.
    """

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
        """The module that saved the model and can load it, imported now.

        Raises
        ------
        CasstoreError
            There is no such module.
        """
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
        """The options, as the module's own `ModelOptions` where it has such a class, else as `ModelOptions`."""
        if self._options is None:
            kind = ModelOptions
            with contextlib.suppress(CasstoreError):
                kind = getattr(self.imported_module, "ModelOptions", ModelOptions)
            self._options = kind(**self._plain_options)
        return self._options

    def with_options(self, **options: Any) -> ModelInfo:
        """Return a copy with some options changed.

        Parameters
        ----------
        options
            The options to change.

        Returns
        -------
        ModelInfo
            The copy.
        """
        changed = copy(self)
        changed._options = self.options.with_options(**options)
        changed._plain_options = as_dict("options", changed._options)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in `model.yaml`, in its order.

        Returns
        -------
        dict[str, Any]
            Field to value.
        """
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
        """Write it as YAML, as BentoML does in `model.yaml`.

        Parameters
        ----------
        stream
            Where to write; None to return the text.

        Returns
        -------
        str | None
            The text, unless there is a stream.
        """
        text: str | None = yaml.safe_dump(self.to_dict(), stream=stream, sort_keys=False)
        return text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelInfo) and self.to_dict() == other.to_dict()

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
