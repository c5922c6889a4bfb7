"""BentoML's calls: `create`, `get`, `list`, `delete`, `import_model`, `export_model`, `push` and `pull`."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import cloudpickle

from casstore import InvalidMetadata, InvalidTag, Store, Tag, TagNotFound, store_at
from casstore.models import urls
from casstore.models.bento_model import Model
from casstore.models.info import ModelInfo, ModelSignature, as_dict


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
    """Begin a new version: `with create("bert") as model:`, and put files into `model.path`.

    The version is saved when the block ends, and not at all when the block raises. When only the saving fails, the
    files are kept, as `casstore.Store.create` says. Until the block ends, `info.labels`, `info.metadata`,
    `info.signatures` and `custom_objects` of the model may be changed.

    Parameters
    ----------
    name
        A name, which gets a generated version, or `name:version`.
    labels, metadata, module, api_version, signatures, options, custom_objects, context
        As in `casstore.Store.create`.
    _model_store
        The store; by default the one at `$CASSTORE_HOME`, else `~/.casstore`.
    external_modules
        Modules of your own whose code is pickled with the custom objects, and not only their names.

    Yields
    ------
    Model
        The model being written.

    Raises
    ------
    CasstoreError
        What `casstore.Store.create` raises.

    Examples
    --------
    >>> from casstore import models
    >>> with models.create("tiny:1", labels={"stage": "dev"}) as model:
    ...     written = open(model.path_of("config.json"), "w").close()
    >>> models.get("tiny").info.labels
    {'stage': 'dev'}
    """
    store = _model_store or store_at()
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
    """Return the version of a tag.

    Parameters
    ----------
    tag
        `name:version`; a name alone, or `name:latest`, for the newest version; a prefix that only one version has; or
        an alias, `name@alias`.
    _model_store
        As in `create`.
    model_aliases
        Other words, each with the tag that it stands for.

    Returns
    -------
    Model
        The version.

    Raises
    ------
    TagNotFound
        No version fits.
    AmbiguousTag
        Several versions begin like this.
    InvalidTag
        `tag` cannot be a tag.
    IntegrityError
        The version's directory has been altered and cannot be mended.
    """
    store = _model_store or store_at()
    text = _text(tag)
    return Model.saved(store, store.get((model_aliases or {}).get(text, text)))


def list(tag: Tag | str | None = None, *, _model_store: Store | None = None) -> builtins.list[Model]:
    """List versions, by name and version.

    Parameters
    ----------
    tag
        Only versions of this name, or only the one with exactly this tag, or that this alias means.
    _model_store
        As in `create`.

    Returns
    -------
    list[Model]
        The versions.

    Raises
    ------
    TagNotFound
        The name has no version.
    InvalidTag
        `tag` cannot be a tag.
    """
    store = _model_store or store_at()
    text = _text(tag or "")
    if "@" in text:
        return [Model.saved(store, store.get(text))]
    name, _, version = text.partition(":")
    versions = store.list(name or None)
    if name and not version and not versions:
        store.get(name, pull=False)  # says so, with what is near it
    return [
        Model.saved(store, each)
        for each in sorted(versions, key=lambda each: each.tag)
        if version in ("", each.tag.version)
    ]


def delete(tag: Tag | str, *, _model_store: Store | None = None) -> None:
    """Delete a version; given `name:latest`, the newest; given a name alone, every version of it. Never by a prefix.

    Parameters
    ----------
    tag
        What to delete.
    _model_store
        As in `create`.

    Raises
    ------
    TagNotFound
        There is no such version.
    InvalidTag
        `tag` cannot be a tag.
    VersionAliased
        An alias means the version.
    """
    store = _model_store or store_at()
    name, _, version = _text(tag).partition(":")
    if "@" in name:
        store.delete(_text(tag))  # which says why not
    elif version == "latest":
        with contextlib.suppress(TagNotFound):  # BentoML takes it that there is nothing to do
            store.delete(store.get(name, pull=False).tag)
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
    """Save the version that an archive holds, or a directory given the format `folder`; of several, return the first.

    A version that is saved already, exactly the same, is only returned.

    Parameters
    ----------
    path
        A path, or a URL, whole or in parts.
    input_format
        As `format` in `casstore.Store.export`; by default the content tells.
    protocol, user, passwd, params, subpath
        The parts of the URL, as BentoML takes them.
    trust
        Whether the custom objects may be asked for. Unpickling them runs code.
    _model_store
        As in `create`.

    Returns
    -------
    Model
        The version.

    Raises
    ------
    CasstoreError
        What `casstore.Store.import_archive` raises.
    OSError
        The archive cannot be read.
    """
    store = _model_store or store_at()
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
    """Write a version to an archive, or to a directory given the format `folder`.

    Parameters
    ----------
    tag
        What `get` takes.
    path
        A file, a directory, or a URL, whole or in parts.
    output_format
        As `format` in `casstore.Store.export`; by default what the name says, else BentoML's own.
    protocol, user, passwd, params, subpath
        The parts of the URL, as BentoML takes them.
    _model_store
        As in `create`.

    Returns
    -------
    str
        The path or URL of the archive.

    Raises
    ------
    CasstoreError
        What `casstore.Store.export` raises.
    OSError
        The archive cannot be written.
    """
    return get(tag, _model_store=_model_store).export(
        path, output_format, protocol=protocol, user=user, passwd=passwd, params=params, subpath=subpath
    )


def push(tag: Tag | str, *, force: bool = False, _model_store: Store | None = None) -> None:  # noqa: ARG001
    """Bring a version to the store's default remote; only what that lacks travels.

    What `casstore.Store.remote` returns can do more.

    Parameters
    ----------
    tag
        As in `get`.
    force
        Taken for BentoML's sake: a version that is there is not sent again, and never replaced by another.
    _model_store
        As in `create`.

    Raises
    ------
    NoRemote
        The store has no remote, or several of which none is the default.
    TagNotFound
        No version fits.
    TagExists
        Another version has the tag there.
    RemoteError
        The remote cannot be reached.
    """
    store = _model_store or store_at()
    with store.remote() as remote:
        remote.push(store.get(_text(tag), pull=False).tag)


def pull(tag: Tag | str, *, force: bool = False) -> Model:  # noqa: ARG001
    """Fetch a version from the store's default remote; only what the store lacks travels.

    The store is the one at `$CASSTORE_HOME`, else `~/.casstore`. What `casstore.Store.remote` returns can do more.

    Parameters
    ----------
    tag
        `name:version`; a name alone, or `name:latest`, for the newest version there.
    force
        Taken for BentoML's sake: a version that is here is not fetched again, and never replaced by another.

    Returns
    -------
    Model
        The version.

    Raises
    ------
    NoRemote
        The store has no remote, or several of which none is the default.
    TagNotFound
        No such version is there.
    TagExists
        Another version has the tag here.
    InvalidSignature
        The setting `require_signature` asks for a signature, and it has none that is valid.
    RemoteError
        The remote cannot be reached.
    """
    store = store_at()
    text = _text(tag)
    with store.remote() as remote:
        (pulled,) = remote.pull(text if ":" in text else f"{text}:latest")
    return Model.saved(store, pulled.model)


def _plain_signatures(signatures: Any) -> Any:
    """Signatures as a draft takes them. What is not a signature stays, so that only the saving fails, which keeps the
    files.
    """
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
    """Have cloudpickle take these modules' code along meanwhile; modules registered by other code stay registered."""
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
