"""The cache of huggingface_hub and its hub: versions shown there by name, and what is there made into versions.

The layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import casstore

__all__ = [
    "Linked", "adopt_cache", "cache_directory", "import_repository", "is_repository", "link", "names_file",
    "refresh", "unlink",
]  # fmt: skip

_ORGANISATION = "casstore"
_REPOSITORY = f"models--{_ORGANISATION}--"
_MARKER = ".casstore"
_INSIDE = ("refs", "snapshots")
_REVISION_DIGITS = 40
_VERSION_DIGITS = 12
_ANY_VERSION = "v"
_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
_URI = re.compile(
    r"hf://(?:(?P<kind>models|datasets|spaces)/)?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./%-]+))?/?",
    re.ASCII,
)
_FILE = re.compile(r"hf://(?:(?:models|datasets|spaces)/)?[^/]+/[^/@]+(?:@[^/]+)?/.+")
_HUB = "https://huggingface.co"
# What the library that huggingface_hub makes requests by raises where nothing answers: httpx, or before that requests.
_NO_ANSWER = {"TransportError", "ConnectionError", "Timeout"}


class Linked(NamedTuple):
    """A repository in a cache: its name there, where it is, and the version that each revision means."""

    repository: str
    path: str
    revisions: dict[str, str]


def cache_directory() -> Path:
    """Where huggingface_hub has its cache, as its own environment variables say."""
    environment = os.environ.get
    named = environment("HF_HUB_CACHE") or environment("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    cache = environment("XDG_CACHE_HOME") or "~/.cache"
    return Path(environment("HF_HOME") or Path(cache, "huggingface"), "hub").expanduser()


def link(
    store: casstore.Store, name: str, directory: str | os.PathLike[str] | None = None, *, everything: bool = False,
    copy: bool = False,
) -> Linked:  # fmt: skip
    """Make versions of a name loadable as `from_pretrained("casstore/NAME", revision=...)`.

    Revisions are the aliases, the tags' versions, and `main`, which is the newest version. Linked are the newest
    version and those with an alias. Doing it again brings all that up to date, and so does `refresh`: the store
    remembers the cache in its setting `hf_caches`, unless its path has a colon. The files are hardlinks to the store's,
    so they stay whatever becomes of the directories in the store; `copy` makes copies of them.

    Parameters
    ----------
    store
        The store.
    name
        The name of the versions.
    directory
        The cache. None means that of huggingface_hub.
    everything
        Link every version; each gets a directory in the store.
    copy
        Make copies, as for a cache on another file system.

    Returns
    -------
    Linked
        What is there now.

    Raises
    ------
    TagNotFound
        There is no version of this name.
    InvalidSource
        No link can be made there, or what stands there is not such a repository of this store.
    """
    name = store.get(name).tag.name
    root = _place(name, directory)
    with _alone(root, make=True):
        if any(root.iterdir()):
            _check(store, root)
        return _link(store, name, root, _Wishes(everything, copy), ())


def _link(store: casstore.Store, name: str, root: Path, wishes: _Wishes, kept: Collection[str]) -> Linked:
    """As `link`, in a directory that is there. `kept`: snapshots that stay, whether a revision means them or not."""
    newest = store.get(name)
    aliases = {each.alias: each.tag for each in store.aliases(name)}
    tags = {newest.tag, *aliases.values(), *(model.tag for model in (store.list(name) if wishes.everything else ()))}
    models = {tag: store.get(tag) for tag in sorted(tags)}
    revisions = {"main": newest.tag} | aliases | {tag.version: tag for tag in models}
    _mark(store, root, wishes)
    _remember(store, str(root.parent))
    snapshots = {tag: str(model.digest)[:_REVISION_DIGITS] for tag, model in models.items()}
    for tag, model in models.items():
        _fill(store, model, root / "snapshots" / snapshots[tag], copy=wishes.copy)
    for revision, tag in revisions.items():
        _put(root / "refs" / revision, snapshots[tag])
    for path in (root / "refs").iterdir():
        if path.name not in revisions:
            path.unlink()
    for path in (root / "snapshots").iterdir():
        if path.name not in snapshots.values() and path.name not in kept:
            shutil.rmtree(path)
    return Linked(f"{_ORGANISATION}/{name}", str(root), {each: str(tag) for each, tag in sorted(revisions.items())})


def refresh(store: casstore.Store, name: str | None = None) -> tuple[list[Linked], list[str]]:
    """Bring up to date what `link` has put into caches that the store remembers, and is still there.

    The command `casstore alias` does so after each move; a program that moves aliases by `Store.set_alias`, or saves a
    version that is to be `main`, calls this. What a revision meant before stays until the next time, as another process
    may just be loading it.

    Parameters
    ----------
    store
        The store.
    name
        Only the versions of this name. None means all.

    Returns
    -------
    tuple[list[Linked], list[str]]
        What is there now; and where something is out of date still, with the reason, a line each.
    """
    linked: list[Linked] = []
    problems: list[str] = []
    for cache in _caches(store):
        try:
            roots = [Path(cache, each) for each in sorted(os.listdir(cache)) if each.startswith(_REPOSITORY)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problems.append(f"{cache} may have what is not up to date: {error}")
            continue
        for root in roots:
            its = root.name.removeprefix(_REPOSITORY)
            if name in (None, its) and _may_be_of(store, root):
                try:
                    linked.append(_refresh(store, its, root))
                except (casstore.CasstoreError, OSError) as error:
                    if root.exists():  # nobody has unlinked it meanwhile
                        problems.append(f"{root} is not up to date: {error}")
    return linked, problems


def _refresh(store: casstore.Store, name: str, root: Path) -> Linked:
    with _alone(root):
        wishes = _check(store, root)
        # Whoever may write to it might lead what is written and removed there to elsewhere.
        if os.lstat(root).st_uid != os.geteuid():
            raise casstore.InvalidSource("it belongs to another user, who has to do that")
        shown = {ref.read_text() for ref in (root / "refs").iterdir()}
        return _link(store, name, root, wishes, shown)


def unlink(store: casstore.Store, name: str, directory: str | os.PathLike[str] | None = None) -> str:
    """Take the repository that `link` has made out of the cache again; the store keeps all. Returns its path.

    Raises FileNotFoundError where there is none, and InvalidSource for one that is not this store's.
    """
    root = _place(name, directory)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not there; nothing is linked")
    with _alone(root):
        _check(store, root)
        shutil.rmtree(root)
    return str(root)


def adopt_cache(
    store: casstore.Store, directory: str | os.PathLike[str] | None = None, *, progress: casstore.Progress | None = None
) -> casstore.AdoptReport:
    """Save every snapshot of a model in a cache of huggingface_hub, as `ORG--NAME:` and 12 digits of its revision.

    The cache stays as it is. It may be run again: what is saved already is left alone.

    Parameters
    ----------
    store
        The store.
    directory
        The cache. None means that of huggingface_hub.
    progress
        Told how far each saving is.

    Returns
    -------
    AdoptReport
        What was saved, what was there already, and what was refused, such as a snapshot with files missing.

    Raises
    ------
    InvalidSource
        There is no such directory, or it is not a cache.
    """
    cache = cache_directory() if directory is None else Path(directory)
    if not cache.is_dir():
        raise casstore.InvalidSource(f"there is no Hugging Face cache at {cache}; name its directory")
    if not _has_repositories(cache):
        below = next((f", {each}" for each in sorted(cache.glob("*/")) if _has_repositories(each)), "")
        raise casstore.InvalidSource(
            f"{cache} is not a Hugging Face cache: it holds no models--ORG--NAME; name the directory that does{below}"
        )
    adopted: list[str] = []
    present: list[str] = []
    refused: list[casstore.Refused] = []
    size, before = 0, store.stats().stored_bytes
    said: dict[str, Any] = {} if progress is None else {"progress": progress}
    # The oldest first, of which a later one is stored as the difference.
    for snapshot in sorted(cache.glob("models--*/snapshots/*"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        root = snapshot.parent.parent
        if not snapshot.is_dir() or (root / _MARKER).exists():
            continue
        try:
            tag = _tag(root.name.removeprefix("models--").replace("--", "/"), snapshot.name)
            if _is_saved(store, tag, snapshot):
                present.append(tag)
                continue
            size += store.save(tag, snapshot, from_hf=True, materialize=False, **said).size
        except (casstore.InvalidSource, casstore.InvalidTag, casstore.FileChanged, casstore.TagExists) as error:
            refused.append(casstore.Refused(str(snapshot), str(error)))
            continue
        adopted.append(tag)
    grown = max(0, store.stats().stored_bytes - before)
    return casstore.AdoptReport(tuple(adopted), tuple(present), tuple(refused), (), size, grown)


def _has_repositories(directory: Path) -> bool:
    return any(any(directory.glob(f"{kind}--*")) for kind in _TYPES)


def is_repository(uri: str) -> bool:
    """Whether this is `hf://[TYPE/]ORG/NAME[@REVISION]`, a whole repository."""
    return _URI.fullmatch(uri) is not None


def names_file(uri: str) -> bool:
    """Whether this is `hf://[TYPE/]ORG/NAME[@REVISION]/PATH`, a file in a repository."""
    return _URI.fullmatch(uri) is None and _FILE.fullmatch(uri) is not None


def import_repository(
    store: casstore.Store, uri: str, *, as_tag: str | None = None, include: Sequence[str] = (), quiet: bool = True
) -> tuple[casstore.Model, bool]:
    """Download a repository of the hub straight into a version, as `ORG--NAME:` and 12 digits of its commit.

    `$HF_ENDPOINT`, `$HF_TOKEN` and all else count as huggingface_hub has them. Repository and commit are recorded as
    `metadata["huggingface"]`, and as a parent.

    Parameters
    ----------
    store
        The store.
    uri
        `hf://[TYPE/]ORG/NAME[@REVISION]`; the revision is a branch, a tag or a commit.
    as_tag
        The tag to save it under.
    include
        Patterns of the files to download, such as "*.safetensors"; all if there are none.
    quiet
        Show no progress on stderr.

    Returns
    -------
    tuple[Model, bool]
        The version, and whether it is new. One of the same commit and patterns is not downloaded again.

    Raises
    ------
    InvalidSource
        `uri` is no repository, or `$HF_ENDPOINT` is no URL.
    InvalidTag
        `as_tag` cannot be a tag.
    InvalidSignature
        The setting `require_signature` is on: nothing is downloaded.
    TagExists
        Another version has the tag.
    CasstoreError
        The hub refused, what came from it cannot be saved, or huggingface_hub is not installed.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise casstore.InvalidSource(f"{uri} is not hf://ORG/NAME or hf://ORG/NAME@REVISION")
    if as_tag is not None:
        _check_tag(as_tag)
    endpoint = os.environ.get("HF_ENDPOINT", _HUB)
    if not endpoint.lower().startswith(("http://", "https://")):
        raise casstore.InvalidSource(
            f"HF_ENDPOINT is {endpoint!r}, which is not the URL of a hub, such as {_HUB}; set it, or unset it"
        )
    if store.settings()["require_signature"] != "off":
        raise casstore.InvalidSignature(
            f"{uri} is not imported, as the store takes only what is signed: the hub has no signatures that casstore "
            "checks; import it into another store, sign it there, and import what `casstore export` makes of it, or "
            "download it and save it with `casstore save NAME DIRECTORY`"
        )
    hub = _hub()
    kind, repository, revision = _TYPES[match["kind"] or "models"], match["repository"], match["revision"]
    with _hub_errors(uri):
        info = hub.HfApi().repo_info(repository, repo_type=kind, revision=revision)
    origin: dict[str, Any] = {
        "repo_id": repository, "repo_type": kind, "revision": info.sha,
        "refs": [] if revision == info.sha else [revision or "main"],
    }  # fmt: skip
    if include:
        origin["include"] = list(include)
    tag = as_tag or _tag(repository, info.sha)
    saved = _found(store, tag)
    if saved is not None and {**saved.metadata.get("huggingface", {}), "refs": []} == {**origin, "refs": []}:
        return saved, False
    with store.create(tag, metadata={"huggingface": origin}) as draft:
        if quiet:
            hub.utils.disable_progress_bars()
        with _hub_errors(uri):
            hub.snapshot_download(
                repository,
                repo_type=kind,
                revision=info.sha,
                local_dir=draft.path,
                allow_patterns=list(include) or None,
            )
        # What huggingface_hub notes of the download; the repository may have files of its own beside it.
        shutil.rmtree(Path(draft.path, ".cache", "huggingface"), ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(draft.path, ".cache").rmdir()
        if not any(Path(draft.path).iterdir()):
            raise casstore.InvalidSource(f"{uri} has no files" + (" that fit --include" if include else ""))
    return draft.model, True


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise casstore.CasstoreError(
            "hf:// needs the package huggingface_hub: pip install 'casstore[huggingface]'"
        ) from error


@contextlib.contextmanager
def _hub_errors(uri: str) -> Iterator[None]:
    """Errors of huggingface_hub, and of the library it makes requests by, as one of casstore's."""
    try:
        yield
    except casstore.CasstoreError:
        raise
    except Exception as error:
        said = f"{uri} cannot be had from the hub: {str(error).rstrip('.') or type(error).__name__}"
        if _is_without_answer(error):
            said += (
                f"; see whether this machine reaches {os.environ.get('HF_ENDPOINT', _HUB)}, and what HTTPS_PROXY and "
                "HF_ENDPOINT say. `casstore adopt --hf-cache` saves what has been downloaded before"
            )
        raise casstore.CasstoreError(said) from error


def _is_without_answer(error: BaseException | None) -> bool:
    """Whether nothing has answered, be it that huggingface_hub says so in words of its own."""
    while error is not None:
        if _NO_ANSWER & {each.__name__ for each in type(error).__mro__}:
            return True
        error = error.__cause__
    return False


def _check_tag(text: str) -> None:
    """Raise InvalidTag unless a version can be saved under it, a name alone being enough."""
    if {":", "@"} & {*text}:
        casstore.Tag.parse(text)
    else:
        casstore.Tag(text, _ANY_VERSION)


def _tag(repository: str, revision: str) -> str:
    return casstore.slug(f"{repository}:{revision[:_VERSION_DIGITS]}")


def _found(store: casstore.Store, tag: str) -> casstore.Model | None:
    try:
        return store.exact(tag)
    except casstore.CasstoreError:
        return None


def _is_saved(store: casstore.Store, tag: str, snapshot: Path) -> bool:
    """Whether a snapshot is a version already. Files of one revision never change, but more of them may have come.
    Raises TagExists."""
    model = _found(store, tag)
    if model is None:
        return False
    files = {
        path.relative_to(snapshot).as_posix(): path.stat().st_size for path in snapshot.rglob("*") if path.is_file()
    }
    if {file.path: file.size for file in model.files} != files:
        raise casstore.TagExists(
            f"{tag} is saved with other files; if more have been downloaded since, save them under another tag by "
            f"`casstore save NAME:VERSION --from-hf {snapshot}`"
        )
    return True


def _place(name: str, directory: str | os.PathLike[str] | None) -> Path:
    cache = cache_directory() if directory is None else Path(directory)
    return cache.absolute() / f"{_REPOSITORY}{name}"


class _Wishes(NamedTuple):
    """What `link` was asked for."""

    everything: bool
    copy: bool


def _caches(store: casstore.Store) -> list[str]:
    """Those that the store remembers."""
    said = store.settings()["hf_caches"]
    return [] if said == "off" else said.split(":")


def _remember(store: casstore.Store, cache: str) -> None:
    known = _caches(store)
    if cache not in known and ":" not in cache:
        with contextlib.suppress(casstore.StoreUnwritable):
            store.set_setting("hf_caches", ":".join([*known, cache]))


@contextlib.contextmanager
def _alone(root: Path, *, make: bool = False) -> Iterator[None]:
    """While no other process works on a repository, where the file system has locks. `make` it if it is not there.

    Raises FileNotFoundError where it is not there, or is removed while another process is waited for.
    """
    while True:
        if make:
            root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _stands_at(root, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _stands_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _mark(store: casstore.Store, root: Path, wishes: _Wishes) -> None:
    """Say whose a repository is, and make the directories in it."""
    for name in _INSIDE:
        (root / name).mkdir(exist_ok=True)
    # Numbers, so that it is as long whatever is wished.
    said = {"home": str(store.home.resolve()), "all": int(wishes.everything), "copy": int(wishes.copy)}
    _put(root / _MARKER, json.dumps(said))


def _may_be_of(store: casstore.Store, root: Path) -> bool:
    """Whether `link` has made it of this store, or of one that is not where it was: this one may have been moved."""
    try:
        home = _said(root)[0]
        os.lstat(home)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (casstore.InvalidSource, OSError):
        return False
    return home == str(store.home.resolve())


def _said(root: Path) -> tuple[str, _Wishes]:
    """Of which store `link` has made it, and what it was asked for. Raises InvalidSource."""
    try:
        said = json.loads((root / _MARKER).read_text(encoding="utf-8"))
        return str(said["home"]), _Wishes(bool(said.get("all")), bool(said.get("copy")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise casstore.InvalidSource(
            f"{root} was not made by `casstore hf-cache link`, and is left as it is; name another directory"
        ) from None


def _check(store: casstore.Store, root: Path) -> _Wishes:
    """What `link` was asked for when it made this. Raises InvalidSource for what is not of this store's versions."""
    home, wishes = _said(root)
    if home != str(store.home.resolve()):
        raise casstore.InvalidSource(
            f"{root} has versions of another store, {home}; name another directory, or remove it by "
            f"`casstore --home {home} hf-cache unlink`; if that store has been moved here, remove {root} and link it "
            "again"
        )
    for name in _INSIDE:
        if (root / name).is_symlink():
            raise casstore.InvalidSource(f"{root / name} is a link, and what it leads to is left as it is; remove it")
    return wishes


def _fill(store: casstore.Store, model: casstore.Model, snapshot: Path, *, copy: bool) -> None:
    if _is_whole(snapshot, model):
        return
    if snapshot.exists():  # somebody has removed files from it
        shutil.rmtree(snapshot)
    try:
        store.checkout(model.tag, snapshot, link=not copy)
    except FileExistsError:  # by another process that links it
        if not _is_whole(snapshot, model):
            raise
    except casstore.InvalidSource as error:
        if copy:
            raise
        raise casstore.InvalidSource(
            f"{error}. Give hf-cache a directory on the store's file system, for $HF_HUB_CACHE, or --copy"
        ) from error


def _is_whole(snapshot: Path, model: casstore.Model) -> bool:
    found = ((snapshot / file.path, file.size) for file in model.files)
    return snapshot.is_dir() and all(path.is_file() and path.stat().st_size == size for path, size in found)


def _put(path: Path, text: str) -> None:
    """Write a small file in one piece: what stands there is as long, so nobody reads half of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
