"""BentoML's calls: `create`, `get`, `list`, `delete`, `import_model`, `export_model`, `push` and `pull`."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NoReturn

import cloudpickle

from casstore import InvalidMetadata, InvalidTag, NoRemote, Store, Tag, TagNotFound
from casstore.models import urls
from casstore.models.bento_model import Model
from casstore.models.info import ModelInfo, ModelSignature, as_dict
from casstore.models.opening import store_at_home


@contextlib.contextmanager
def create(
    name: Tag | str,
    *,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    _model_store: Store | None = None,
    module: str = "",
    api_version: str | None = "v1",
    signatures: Mapping[str, Any] | None = None,
    options: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
    external_modules: Iterable[ModuleType] | None = None,
    context: Any = None,
) -> Iterator[Model]:
    """A new version to be written: `with create("bert") as model:` put files into `model.path`.

    It is saved when the block ends, and not at all when that raises, KeyboardInterrupt too. Where only the saving
    fails, its files are kept, as `casstore.Store.create` says. Until then its
    `info.labels`, `info.metadata`, `info.signatures` and `custom_objects` may be changed. `external_modules` are
    modules of yours whose code is pickled with the custom objects, not only their names.
    Raises as `casstore.Store.create`.
    """
    store = _model_store or store_at_home()
    plain_options = as_dict("options", options)
    with _pickled_by_value(external_modules or ()), store.create(
        _text(name), labels=labels, metadata=metadata, module=module, api_version=api_version or "v1",
        options=plain_options, custom_objects=custom_objects, context=context,
    ) as draft:  # fmt: skip
        info = ModelInfo(
            draft.tag, module, labels, plain_options if options is None else options, metadata, context, signatures,
            draft.api_version,
        )  # fmt: skip
        info.labels, info.metadata = draft.labels, draft.metadata  # which are checked when something is put into them
        model = Model.being_written(store, draft, info)
        yield model
        draft.signatures = _plain_signatures(info.signatures)
        draft.labels, draft.metadata = info.labels, info.metadata
    model.become(draft.model)


def get(tag: Tag | str, *, _model_store: Store | None = None, model_aliases: Mapping[str, str] | None = None) -> Model:
    """The version of that tag, of its name alone, of `name:latest`, or of a unique prefix.

    `model_aliases` maps other words to tags. Raises TagNotFound, AmbiguousTag, InvalidTag, IntegrityError.
    """
    store = _model_store or store_at_home()
    text = _text(tag)
    return Model.saved(store, store.get((model_aliases or {}).get(text, text)))


def list(tag: Tag | str | None = None, *, _model_store: Store | None = None) -> builtins.list[Model]:
    """All versions, those of a name, or the one with that very tag, by name and version.

    Raises TagNotFound for a name that has no version, InvalidTag.
    """
    store = _model_store or store_at_home()
    name, _, version = _text(tag or "").partition(":")
    versions = store.list(name or None)
    if name and not version and not versions:
        store.get(name)  # says so, with what is near it
    return [
        Model.saved(store, each)
        for each in sorted(versions, key=lambda each: each.tag)
        if version in ("", each.tag.version)
    ]


def delete(tag: Tag | str, *, _model_store: Store | None = None) -> None:
    """Delete that version; the newest, given `name:latest`; every one, given a name alone. Never by a prefix.

    Raises TagNotFound, InvalidTag.
    """
    store = _model_store or store_at_home()
    name, _, version = _text(tag).partition(":")
    if version == "latest":
        with contextlib.suppress(TagNotFound):  # BentoML takes it that there is nothing to do
            store.delete(store.get(name).tag)
    elif version:
        store.delete(_text(tag))
    else:
        for model in list(name, _model_store=store):
            store.delete(model.tag)


def import_model(
    path: str,
    input_format: str | None = None,
    *,
    protocol: str | None = None,
    user: str | None = None,
    passwd: str | None = None,
    params: dict[str, str] | None = None,
    subpath: str | None = None,
    trust: bool = False,
    _model_store: Store | None = None,
) -> Model:
    """Save the version that an archive, or a directory given the format `folder`, holds; of several, the first.

    `path` is local, or a URL, whole or in parts. What is there already with the same content is only returned.
    Its custom objects can be asked for only with `trust=True`, for unpickling them runs code.
    Raises as `casstore.Store.import_archive`.
    """
    store = _model_store or store_at_home()
    source = urls.build(path, protocol=protocol, user=user, passwd=passwd, params=params, subpath=subpath)
    return Model.saved(store, store.import_archive(source, format=input_format, trust=trust)[0].model)


def export_model(
    tag: Tag | str,
    path: str,
    output_format: str | None = None,
    *,
    protocol: str | None = None,
    user: str | None = None,
    passwd: str | None = None,
    params: dict[str, str] | None = None,
    subpath: str | None = None,
    _model_store: Store | None = None,
) -> str:
    """Write a version to an archive, or to a directory given the format `folder`; returns its path or URL.

    `path` is a file, a directory, or a URL, whole or in parts. Raises as `casstore.Store.export`.
    """
    return get(tag, _model_store=_model_store).export(
        path, output_format, protocol=protocol, user=user, passwd=passwd, params=params, subpath=subpath
    )


def push(tag: Tag | str, *, force: bool = False, _model_store: Store | None = None) -> NoReturn:  # noqa: ARG001
    """Raises NoRemote: there is none to push to."""
    raise NoRemote(f"there is no remote to push {tag} to; carry it by file, with export_model and import_model")


def pull(tag: Tag | str, *, force: bool = False) -> NoReturn:  # noqa: ARG001
    """Raises NoRemote: there is none to pull from."""
    raise NoRemote(f"there is no remote to pull {tag} from; carry it by file, with export_model and import_model")


def _plain_signatures(signatures: Any) -> Any:
    """Signatures as a draft takes them. What is none stays, so that only the saving fails, which keeps the files."""
    try:
        return {method: ModelSignature.from_dict(each).to_dict() for method, each in signatures.items()}
    except (InvalidMetadata, AttributeError, TypeError):
        return signatures


def _text(tag: Any) -> str:
    """BentoML's own tags are taken as well."""
    if isinstance(tag, str) or hasattr(tag, "version"):
        return str(tag)
    raise InvalidTag(f"a tag is text such as 'bert:v1', not {type(tag).__name__}")


@contextlib.contextmanager
def _pickled_by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Meanwhile cloudpickle takes these modules' code along; those that somebody else has told it so stay so."""
    before = cloudpickle.list_registry_pickle_by_value()
    mine = [module for module in modules if module.__name__ not in before]
    try:
        for module in mine:
            cloudpickle.register_pickle_by_value(module)
        yield
    finally:
        for module in mine:
            with contextlib.suppress(ValueError):  # what could not be registered
                cloudpickle.unregister_pickle_by_value(module)
