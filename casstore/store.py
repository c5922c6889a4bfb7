"""The store, as callers see it: delegates, decides nothing."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from casstore.actions import configure, resolve
from casstore.actions import sharing as sharing_action
from casstore.actions.consistency import lost
from casstore.actions.consistency.held import kept_manifests
from casstore.actions.directories import pinning
from casstore.actions.exchange import adopt as adopt_action
from casstore.actions.exchange import backup as backup_action
from casstore.actions.exchange import checkout as checkout_action
from casstore.actions.exchange import elsewhere, exporting, importing, remotes_file
from casstore.actions.exchange import pruned as pruned_action
from casstore.actions.exchange import sync_tree as sync_tree_action
from casstore.actions.exchange.adopt import AdoptReport
from casstore.actions.exchange.arrivals import Wishes as ImportWishes
from casstore.actions.exchange.backup import BackupReport
from casstore.actions.exchange.sync_tree import SyncReport
from casstore.actions.gc import collect as gc_action
from casstore.actions.gc.report import GcOptions, GcReport
from casstore.actions.health import rebuild as rebuild_action
from casstore.actions.health import repair as repair_action
from casstore.actions.health import verify as verify_action
from casstore.actions.health.rebuild import RebuildReport
from casstore.actions.health.repair import RepairReport
from casstore.actions.health.verify import VerifyReport
from casstore.actions.home import layout_of, open_workspace
from casstore.actions.registry import annotating, history
from casstore.actions.reopening import Address
from casstore.actions.reserved import in_any_room
from casstore.actions.saving import delete as delete_action
from casstore.actions.saving import drafts as drafts_action
from casstore.actions.saving.drafts import KeptDraft
from casstore.actions.saving.trust import Trust
from casstore.actions.sharing import InitReport
from casstore.actions.workspace import Workspace
from casstore.annotated import Annotation
from casstore.archive.formats import Format
from casstore.catalog.events import Event
from casstore.catalog.remotes import Elsewhere
from casstore.catalog.usage import Usage
from casstore.description import Description
from casstore.draft import Draft, Wishes
from casstore.errors import InvalidTag, TagNotFound
from casstore.model import Imported, Model, Models
from casstore.notebook import MOST_ROWS, table
from casstore.plain_json import mapping, plain_labels
from casstore.progress import SILENT, Progress
from casstore.remote.address import RemoteAddress
from casstore.remotes import Remote
from casstore.settings import check_setting
from casstore.tag import Tag, TagQuery

# A name outside the class, whose own `list` hides the type.
_Imports = list[Imported]


_log = logging.getLogger("casstore")


class Store:
    """A store of models in one directory, its home.

    A store is a context manager; `close` may also be called. Threads may share it, and a forked child may go on using
    it. It can be pickled and copied, together with what a subclass has put on it: the store is opened again where the
    copy is first used.

    Parameters
    ----------
    home
        The directory of the store. None means `$CASSTORE_HOME`, or else `~/.casstore`.
    auto_gc
        False: no save through this object starts a gc. Otherwise a save starts one, in a process of its own, when much
        could be given back and the setting `auto_gc` is on.
    create
        Whether to make the store where none stands.

    Raises
    ------
    StoreNotFound
        No store stands at `home`, and `create` is false.
    StoreUnwritable
        The directory cannot be made or written to.
    StoreTooNew
        A newer casstore has written the store.
    SQLiteTooOld
        The SQLite library in use can corrupt the catalog.
    StoreError
        The store cannot be used for another reason; the message says which.

    Examples
    --------
    >>> with casstore.Store("models-here") as here:
    ...     here.tags()
    []
    """

    def __init__(
        self, home: str | os.PathLike[str] | None = None, *, auto_gc: bool = True, create: bool = True
    ) -> None:
        self._workspace = open_workspace(home, auto_gc, create=create)
        self._address = Address.of(self._workspace)

    @functools.cached_property
    def _workspace(self) -> Workspace:
        return self._address.open()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_workspace"}

    @property
    def home(self) -> Path:
        """The directory that the store is in."""
        return Path(self._address.home)

    @staticmethod
    def default_home() -> Path:
        """Return the home of a store that is opened without one now: `$CASSTORE_HOME`, or else `~/.casstore`.

        Returns
        -------
        Path
            The directory, whether or not a store stands there.
        """
        return layout_of(None).home

    def create(
        self,
        tag: str | Tag,
        *,
        labels: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        base: str | Tag | None = None,
        module: str = "",
        api_version: str = "v1",
        signatures: Mapping[str, Any] | None = None,
        options: Any = None,
        context: Any = None,
        custom_objects: Mapping[str, Any] | None = None,
        durability: str | None = None,
        materialize: bool = True,
        keep_on_error: bool = False,
        exist_ok: bool = False,
        progress: Progress = SILENT,
    ) -> Draft:
        """Begin a new version: `with store.create("bert") as draft:`, and put files into `draft.path`.

        The version is saved when the block ends, and not at all when the block raises. When saving fails, the files are
        kept for `keep_days` (a setting): the error says where (`error.draft_path`), `drafts` lists them, and
        `save_draft` saves them after all.

        Parameters
        ----------
        tag
            `name:version`. A name alone gets a generated version, which sorts by time. `casstore.slug` makes a tag of
            any text.
        labels
            Text to text, to find the version by. Numbers and booleans become text.
        metadata
            Text to whatever JSON can hold, and to paths, sets, dataclasses, dates, NaN and infinities.
        base
            The version that this one came from; what has changed since is stored as the difference from it. By default
            the newest version of the same name.
        module
            The Python module that can load the model, as BentoML records it.
        api_version
            The version of that module's interface, as BentoML records it.
        signatures
            The model's methods, as BentoML records them.
        options
            How the model is to be loaded: a mapping, or an object with `to_dict`.
        context
            The framework and its versions: a mapping, or an object with `to_dict`.
        custom_objects
            Python objects to pickle beside the files. Unpickling them runs code.
        durability
            "full": once saved, the version survives a power cut. "relaxed": it survives a crash of the process only. By
            default as set in the store.
        materialize
            False for a version that will not be opened soon, such as each checkpoint of a run: it is packed at once, as
            `gc` would do later, and has no directory until `Model.path` asks for one.
        keep_on_error
            Also keep the files when the block itself raises.
        exist_ok
            Where the tag is saved already with the same files, labels, metadata and the rest, save nothing and succeed,
            as when a training is resumed. Where anything differs, TagExists is raised at the end of the block.
        progress
            Told how far the saving is.

        Returns
        -------
        Draft
            To be entered with `with`, once.

        Raises
        ------
        InvalidTag
            `tag` cannot be a tag.
        TagExists
            The tag is taken; also at the end of the block, when another process has taken it meanwhile.
        TagNotFound
            There is no version `base`.
        InvalidMetadata
            Labels, metadata or another description cannot be recorded.
        InvalidSetting
            `durability` is neither "full" nor "relaxed".
        InvalidSource
            At the end of the block: the files cannot be saved, or there are none.
        FileChanged
            At the end of the block: a file changed while it was being saved.
        StoreLocked
            At the end of the block: another process has held a lock for too long.
        OSError
            The system refused something, as when the disk is full.

        Examples
        --------
        >>> from pathlib import Path
        >>> with store.create("gpt:v1", labels={"stage": "dev"}) as draft:
        ...     written = Path(draft.path, "model.bin").write_bytes(b"weights")
        ...     draft.metadata["steps"] = 900
        >>> draft.model.size
        7
        """
        if durability is not None:
            check_setting("durability", durability)
        new_tag = resolve.new_tag(self._workspace.catalog, tag, exist_ok=exist_ok)
        said = Description(
            labels=_copy("labels", labels), metadata=_copy("metadata", metadata), module=module,
            signatures=_copy("signatures", signatures), options=options, api_version=api_version, context=context,
        )  # fmt: skip
        wishes = Wishes(
            base=resolve.base(self._workspace.catalog, tag, base), is_base_said=base is not None,
            custom_objects=_copy("custom_objects", custom_objects), durability=durability, materialize=materialize,
            keep_on_error=keep_on_error, exist_ok=exist_ok,
        )  # fmt: skip
        return Draft(self._workspace, new_tag, said, wishes, progress)

    def drafts(self) -> Sequence[KeptDraft]:
        """List the drafts that could not be saved and are kept; gc removes them after `keep_days`.

        Returns
        -------
        Sequence[KeptDraft]
            The oldest first.
        """
        return drafts_action.kept_drafts(self._workspace)

    def save_draft(
        self,
        draft: str | KeptDraft,
        tag: str | Tag | None = None,
        *,
        labels: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        base: str | Tag | None = None,
        durability: str | None = None,
        materialize: bool | None = None,
        exist_ok: bool = False,
        progress: Progress = SILENT,
    ) -> Model:
        """Save a kept draft, and keep it no longer.

        The draft is saved with the description that it was to be saved with, as far as that could be kept. On any error
        it stays kept.

        Parameters
        ----------
        draft
            The draft, its id, or the beginning of its id.
        tag
            The tag to save it under; by default the one that it was to have.
        labels
            Labels to add to those of the draft, or to replace them.
        metadata
            Metadata to add to that of the draft, or to replace it.
        base
            As in `create`; by default the base of the draft.
        durability
            As in `create`; by default as the draft was to be saved.
        materialize
            As in `create`; by default as the draft was to be saved.
        exist_ok
            As in `create`.
        progress
            Told how far the saving is.

        Returns
        -------
        Model
            The saved version.

        Raises
        ------
        TagNotFound
            No kept draft has this id, or there is no version `base`.
        TagExists
            The tag is taken.
        InvalidTag
            `tag` cannot be a tag, or nothing is known of the draft's own.
        StoreLocked
            Another process is saving or removing this draft.
        CasstoreError
            What `create` raises.
        """
        kept = drafts_action.find(self._workspace, draft.id if isinstance(draft, KeptDraft) else draft)
        with drafts_action.held(self._workspace, kept) as record:
            said = record.description
            if tag is None and not record.tag:
                raise InvalidTag(f"nothing is known of the draft {kept.id} but its files; say as what to save it")
            drafts_action.check_open(kept)
            with self.create(
                tag or record.tag, base=base or drafts_action.base_of(self._workspace, record),
                **{
                    **said.said(), "labels": {**said.labels, **_copy("labels", labels)},
                    "metadata": {**said.numbers, **_copy("metadata", metadata)},
                },
                durability=durability or record.durability or None,
                materialize=record.materialize if materialize is None else materialize, exist_ok=exist_ok,
                progress=progress,
            ) as new:  # fmt: skip
                new.take_kept(drafts_action.objects_of(kept), is_base_said=base is not None)
                new.take_from(Path(kept.path), move=True, allow_empty=True, ignore=False)
            if new.left_behind:
                _log.warning(
                    "%s is saved, and the draft %s stays, for what cannot be taken away: %s; "
                    "`casstore drafts --remove %s` removes it when that can be",
                    new.tag, kept.id, ", ".join(new.left_behind), kept.id,
                )  # fmt: skip
            else:
                with contextlib.suppress(OSError):  # the version is saved, whatever is left of the draft
                    drafts_action.remove(self._workspace, kept)
        return new.model

    def remove_draft(self, draft: str | KeptDraft) -> KeptDraft:
        """Remove a kept draft for good.

        Parameters
        ----------
        draft
            The draft, its id, or the beginning of its id.

        Returns
        -------
        KeptDraft
            What has been removed.

        Raises
        ------
        TagNotFound
            No kept draft has this id.
        StoreLocked
            Another process is saving or removing this draft.
        OSError
            The system did not remove it.
        """
        kept = drafts_action.find(self._workspace, draft.id if isinstance(draft, KeptDraft) else draft)
        with drafts_action.held(self._workspace, kept):
            drafts_action.remove(self._workspace, kept)
        return kept

    def save(
        self,
        tag: str | Tag,
        path: str | os.PathLike[str],
        *,
        move: bool = False,
        allow_empty: bool = False,
        from_hf: bool = False,
        exclude: str | Iterable[str] = (),
        ignore: bool = True,
        labels: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        base: str | Tag | None = None,
        module: str = "",
        api_version: str = "v1",
        signatures: Mapping[str, Any] | None = None,
        options: Any = None,
        context: Any = None,
        custom_objects: Mapping[str, Any] | None = None,
        durability: str | None = None,
        materialize: bool = True,
        exist_ok: bool = False,
        progress: Progress = SILENT,
    ) -> Model:
        """Save a directory, or a single file, that exists already.

        Left out of a directory are `.git`, `__pycache__`, `.cache/huggingface`, what `exclude` matches, and what the
        patterns in its `.casstoreignore` match. The logger `casstore` names what was left out, and what `move` had to
        leave.

        Parameters
        ----------
        tag
            As in `create`.
        path
            The directory or file. It stays as it is, unless `move` is set.
        move
            Take the files over where that is possible, without copying them; afterwards they are gone from `path`.
        allow_empty
            Save a directory without files, too.
        from_hf
            `path` is a snapshot in the cache of huggingface_hub: record its repository and revision as
            `metadata["huggingface"]`.
        exclude
            Patterns, written as in a `.gitignore`, of what to leave out.
        ignore
            False: take what is usually left out, and read no `.casstoreignore`. `exclude` still counts.
        labels, metadata, base, module, api_version, signatures, options, context, custom_objects
            As in `create`.
        durability, materialize, exist_ok
            As in `create`.
        progress
            Told how far the saving is.

        Returns
        -------
        Model
            The saved version.

        Raises
        ------
        InvalidSource
            The files cannot be saved, or there are none.
        CasstoreError
            What `create` raises.
        OSError
            The system refused something, as when the disk is full.

        Examples
        --------
        >>> store.save("gpt:v1", "out", metadata={"accuracy": 0.93})
        Model('gpt:v1')
        """
        with self.create(
            tag, labels=labels, metadata=metadata, base=base, module=module, api_version=api_version,
            signatures=signatures, options=options, context=context, custom_objects=custom_objects,
            durability=durability, materialize=materialize, exist_ok=exist_ok, progress=progress,
        ) as draft:  # fmt: skip
            draft.take_from(
                Path(path), move=move, allow_empty=allow_empty, from_hf=from_hf, exclude=exclude, ignore=ignore
            )
        if draft.left_out:
            _log.info("%s: left out of %s: %s", draft.tag, path, ", ".join(draft.left_out))
        if draft.left_behind:
            _log.warning("%s is saved, and these are still there: %s", draft.tag, ", ".join(draft.left_behind))
        return draft.model

    def get(self, tag: str | Tag) -> Model:
        """Return the version of a tag.

        An exact match wins over a prefix. Only the catalog is read: nothing is written, locked or waited for.
        `Model.path` looks at the version's directory, and mends it. A version that is not here is pulled if `evict` has
        left it to a remote, or if the setting `pull_missing` names one.

        Parameters
        ----------
        tag
            `name:version`; a name alone, or `name:latest`, for the newest version; or a prefix that only one version
            has.

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

        Examples
        --------
        >>> store.get("bert")
        Model('bert:v1')
        """
        query = TagQuery.parse(tag)
        try:
            return Model(self._workspace, resolve.find(self._workspace.catalog, query))
        except TagNotFound:
            missing = elsewhere.missing(self._workspace, query)
            if missing is None:
                raise
            with self.remote(missing.remote) as there:
                return there.pull(missing.text, materialize=False)[0].model

    def exists(self, tag: str | Tag) -> bool:
        """Tell whether this very version is saved.

        A name alone, or `name:latest`, stands for any version of that name.

        A prefix is not enough, unlike in `get`. `tag in store` does this too, and is false for what cannot be a tag.

        Parameters
        ----------
        tag
            `name:version`, `name:latest` or a name.

        Returns
        -------
        bool
            Whether it is saved.

        Raises
        ------
        InvalidTag
            `tag` cannot be a tag.

        Examples
        --------
        >>> store.exists("bert:v1"), store.exists("bert"), "bert:v7" in store
        (True, True, False)
        """
        return resolve.exists(self._workspace.catalog, TagQuery.parse(tag))

    def __contains__(self, tag: object) -> bool:
        if not isinstance(tag, str | Tag):
            return False
        try:
            return self.exists(tag)
        except InvalidTag:
            return False

    def list(self, name: str | None = None, *, labels: Mapping[str, Any] | None = None) -> Models:
        """List versions, by name and newest first.

        Parameters
        ----------
        name
            Only the versions of this name. A name without versions gives an empty list.
        labels
            Only versions that have all these labels.

        Returns
        -------
        list[Model]
            The versions; a notebook shows the list as a table.

        Raises
        ------
        InvalidTag
            `name` cannot be a name.
        InvalidMetadata
            `labels` cannot be labels.

        Examples
        --------
        >>> store.list("bert", labels={"stage": "dev"})
        [Model('bert:v1')]
        """
        checked = None if name is None else resolve.name(name)
        wanted = plain_labels(labels)
        rows = self._workspace.catalog.versions.select(checked, wanted)
        return Models(Model(self._workspace, row) for row in rows)

    def damaged_tags(self) -> Sequence[str]:
        """List the versions that need bytes which are gone or have been written over, as far as stat tells.

        Only files that were written to since they were stored are read. `verify` reads everything, and tells what can
        still be read from a copy.

        Returns
        -------
        Sequence[str]
            Tags, sorted.

        Raises
        ------
        OSError
            The store's files cannot be looked at.
        """
        return sorted(map(str, lost.damaged_tags(self._workspace)))

    def exact(self, tag: str | Tag) -> Model:
        """Return the version of exactly this tag, without a look at its directory.

        Parameters
        ----------
        tag
            `name:version`, as `delete` takes it.

        Returns
        -------
        Model
            The version.

        Raises
        ------
        TagNotFound
            There is no such version.
        InvalidTag
            `tag` cannot be a tag, or may mean another version tomorrow: a name alone, or `latest`.
        """
        exact = resolve.exact(self._workspace.catalog, tag)
        return Model(self._workspace, resolve.find(self._workspace.catalog, TagQuery.parse(exact)))

    def tags(self) -> Sequence[str]:
        """List every tag as text.

        Returns
        -------
        Sequence[str]
            The newest first.
        """
        return self._workspace.catalog.versions.tags()

    def delete(self, tag: str | Tag | Iterable[str | Tag]) -> Sequence[str]:
        """Delete exactly this version, or several: directories go at once, bytes at the next `gc`.

        What users have put into these directories, or changed there, is not the versions' own: it goes to
        `quarantine/`. Of several versions those of one name go in one transaction: all of them, or none where one is
        deleted meanwhile. Names go one after another, so an error in the middle leaves earlier names deleted.

        Parameters
        ----------
        tag
            `name:version`, or several of them. A prefix, a name alone or `latest` is not enough.

        Returns
        -------
        Sequence[str]
            The paths in `quarantine/` of what was not the versions' own.

        Raises
        ------
        TagNotFound
            There is no such version; nothing is deleted.
        InvalidTag
            `tag` is not a whole tag; nothing is deleted.

        Examples
        --------
        >>> store.delete("bert:v1")
        []
        >>> store.tags()
        []
        """
        tags = [tag] if isinstance(tag, str | Tag) else [*tag]
        tags = [each for each in tags if not self._forget_elsewhere(each)]
        exact = [resolve.exact(self._workspace.catalog, each) for each in tags]
        kept: list[str] = []
        for group in delete_action.by_name(exact):
            kept += in_any_room(self._workspace, functools.partial(delete_action.delete, self._workspace, group))
        return kept

    def _forget_elsewhere(self, tag: str | Tag) -> bool:
        """Whether that was the name of a version that only a remote has; it is forgotten here, and stays there."""
        query = TagQuery.parse(tag)
        for each in self._workspace.catalog.remotes.elsewhere(query.name):
            if each.tag.version == query.version:
                self._workspace.catalog.remotes.forget_elsewhere(each.tag)
                return True
        return False

    def evict(self, tag: str | Tag | Iterable[str | Tag], *, to_remote: str | None = None) -> Sequence[str]:
        """Give up the bytes of versions here that a remote has, once they have been seen there. The names stay.

        `get` pulls such a version when it is asked for. The newest version of a name, one that is pinned, and one in
        use by a process stay.

        Parameters
        ----------
        tag
            `name:version`, or several.
        to_remote
            The remote that has them; None for the one that is meant where none is named.

        Returns
        -------
        Sequence[str]
            The tags that were given up.

        Raises
        ------
        StoreError
            One is to stay; those before it have been given up.
        TagNotFound
            One is not saved here, or not in the remote.
        RemoteError
            The remote cannot be reached, or lacks bytes of one.
        """
        catalog = self._workspace.catalog
        name = to_remote or self.default_remote() or ""
        rows = [
            resolve.find(catalog, TagQuery.parse(resolve.exact(catalog, each)))
            for each in ([tag] if isinstance(tag, str | Tag) else tag)
        ]
        with self.remote(name or None) as there:
            for row in rows:
                there._give_up(name, row)
        return [str(row.tag) for row in rows]

    def elsewhere(self, name: str | None = None) -> Sequence[Elsewhere]:
        """List the versions whose bytes only a remote has: see `evict`.

        Parameters
        ----------
        name
            Only versions of this name.

        Returns
        -------
        Sequence[Elsewhere]
            Tag, remote, digest, size and time of each, by tag.
        """
        return self._workspace.catalog.remotes.elsewhere(None if name is None else resolve.name(name))

    def pin(self, tag: str | Tag) -> Model:
        """Keep gc from ever taking a version's directory away. Pinning it again changes nothing.

        A pin does not keep the version from being deleted, and makes no directory.

        Parameters
        ----------
        tag
            What `get` takes.

        Returns
        -------
        Model
            The pinned version.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.

        Examples
        --------
        >>> store.pin("bert").is_pinned
        True
        """
        return self._set_pinned(tag, True)

    def unpin(self, tag: str | Tag) -> Model:
        """Let gc take a version's directory away again. Where there is no pin, nothing changes.

        Parameters
        ----------
        tag
            What `get` takes.

        Returns
        -------
        Model
            The version, without a pin.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.
        """
        return self._set_pinned(tag, False)

    def _set_pinned(self, tag: str | Tag, pinned: bool) -> Model:
        row = resolve.find(self._workspace.catalog, TagQuery.parse(tag))
        pinning.set_pinned(self._workspace, row, pinned)
        return Model(self._workspace, row)

    def annotate(
        self,
        tag: str | Tag,
        *,
        labels: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        remove: str | Iterable[str] = (),
    ) -> Model:
        """Add labels and metrics that are known only after the save, or change or take away such as hold.

        The version itself never changes: its files, digest and `model.yaml` are what was saved, and so is what archives
        and remotes get. Labels and metadata of `get` and `list` show what holds now, and searches find it. Who says the
        same again changes nothing. What was said is kept for good, with time and user: see `annotations`.

        Parameters
        ----------
        tag
            What `get` takes.
        labels
            Text to text, as in `create`.
        metrics
            Numbers by name, NaN and infinities too: `metrics.NAME` of searches, and in the metadata under `metrics`.
        remove
            Labels and metrics to take away, saved ones too. `labels.X` and `metrics.X` say which where there are both.

        Returns
        -------
        Model
            The version, with what holds now.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.
        InvalidMetadata
            Something given can be no label or metric, or what is to be removed is not there; nothing is changed.
        StoreLocked
            Another process has held the lock of the name for too long.
        OSError
            The system refused something; saying it again completes what was done.

        Examples
        --------
        >>> model = store.annotate("bert:v1", labels={"stage": "prod"}, metrics={"f1": 0.87})
        >>> model.labels["stage"], model.metadata["metrics"], model.saved_labels["stage"]
        ('prod', {'f1': 0.87}, 'dev')
        """
        wanted = annotating.Wanted.checked(labels, metrics, remove)
        row = resolve.find(self._workspace.catalog, TagQuery.parse(tag))
        return Model(self._workspace, annotating.annotate(self._workspace, row, wanted))

    def annotations(self, tag: str | Tag) -> Sequence[Annotation]:
        """List what was said of a version after its save.

        Parameters
        ----------
        tag
            What `get` takes.

        Returns
        -------
        Sequence[Annotation]
            The oldest first.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.

        Examples
        --------
        >>> model = store.annotate("bert:v1", metrics={"f1": 0.87})
        >>> [(said.kind, said.key, said.value) for said in store.annotations("bert:v1")]
        [('metric', 'f1', 0.87)]
        """
        return annotating.history(self._workspace, resolve.find(self._workspace.catalog, TagQuery.parse(tag)))

    def export(
        self,
        tag: str | Tag | Iterable[str | Tag],
        target: str | os.PathLike[str] | BinaryIO = "",
        *,
        format: str | None = None,
        default: str = "casmodel",
        progress: Progress = SILENT,
    ) -> str:
        """Write a version to an archive, in one pass, and check each byte on its way.

        A file that stands at `target` is replaced when the new one is complete.

        Parameters
        ----------
        tag
            What `get` takes; several of them for the format casmodel.
        target
            A file; a directory, in which the file is named after the version; a stream; or, with `fsspec` installed,
            any URL that it knows.
        format
            bentomodel (BentoML's own, a tar in xz), tar, gz, xz, bz2, zst, zip, folder, or casmodel, which alone holds
            several versions and is smallest. By default what the name of `target` says.
        default
            The format where the name of `target` says nothing.
        progress
            Told how far the writing is.

        Returns
        -------
        str
            Where the archive is.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.
        InvalidSource
            `target` or `format` will not do for these versions.
        IntegrityError
            Stored bytes are damaged; the archive is not written.
        OSError
            The archive cannot be written.

        Examples
        --------
        >>> store.export("bert", "bert.tar.zst")
        'bert.tar.zst'
        """
        tags = [tag] if isinstance(tag, str | Tag) else list(tag)
        rows = {row.id: row for row in (resolve.find(self._workspace.catalog, TagQuery.parse(each)) for each in tags)}
        chosen = None if format is None else Format.parse(format)
        return exporting.export(
            self._workspace, list(rows.values()), target, chosen, progress, default=Format.parse(default)
        )

    def checkout(
        self, tag: str | Tag, directory: str | os.PathLike[str], *, link: bool = False, progress: Progress = SILENT
    ) -> str:
        """Copy a version's files, and its `model.yaml`, into a directory of the caller's own.

        The directory is there as a whole or not at all.

        Parameters
        ----------
        tag
            What `get` takes.
        directory
            A directory that is empty or not there yet, outside of any store.
        link
            False: the files may be written to; they share blocks with the store where the file system can do that, and
            are copies elsewhere. True: they are read-only hardlinks to the store's files, on the same file system.
        progress
            Told how far the copying is.

        Returns
        -------
        str
            The path of the directory.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.
        FileExistsError
            Something is in `directory`.
        InvalidSource
            `directory` is inside a store, or no link can be made there.
        IntegrityError
            Stored bytes are damaged.
        OSError
            The directory cannot be written.

        Examples
        --------
        >>> import os
        >>> sorted(os.listdir(store.checkout("bert", "work")))
        ['config.json', 'model.bin', 'model.yaml']
        """
        row = resolve.find(self._workspace.catalog, TagQuery.parse(tag))
        return str(checkout_action.checkout(self._workspace, row, Path(directory), progress, link=link))

    def import_archive(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        format: str | None = None,
        as_tag: str | Tag | None = None,
        trust: bool = False,
        materialize: bool = True,
        durability: str | None = None,
        progress: Progress = SILENT,
    ) -> _Imports:
        """Save the version that an archive holds, or a directory with a `model.yaml`; of a `.casmodel`, all versions.

        A version keeps its tag, labels, metadata and creation time, and takes its place among the versions of its name
        by that time. A version that is saved already, exactly the same, is left as it is. Nothing is unpacked outside
        the store.

        Parameters
        ----------
        source
            A file, a directory, a stream, or, with `fsspec` installed, a URL.
        format
            As in `export`. By default the content tells; a directory is named by the format folder.
        as_tag
            The tag to save it under, instead of its own.
        trust
            Believe the author of the archive: it may expand to more than 100 times its size, and its `custom_objects`
            may be unpickled, which runs code.
        materialize
            Whether each version gets a directory now.
        durability
            As in `create`.
        progress
            Told how far the reading is.

        Returns
        -------
        list[Imported]
            The versions in the archive, and for each whether it is new.

        Raises
        ------
        UnsafeArchive
            The archive would write elsewhere, expands too much, or contradicts itself.
        InvalidSource
            It is not an archive that casstore reads.
        IntegrityError
            Bytes in it are damaged.
        TagExists
            Another version has the tag.
        OSError
            It cannot be read.

        Examples
        --------
        >>> path = store.export("bert", "bert.casmodel")
        >>> [imported.is_new for imported in store.import_archive(path, as_tag="albert:v1")]
        [True]
        """
        query = None if as_tag is None else TagQuery.parse(as_tag)
        wishes = ImportWishes(
            None if query is None else resolve.completed(query), Trust.GIVEN if trust else Trust.NONE,
            self._is_durable(durability), materialize,
        )  # fmt: skip
        chosen = None if format is None else Format.parse(format)
        arrivals = importing.import_archive(self._workspace, source, chosen, wishes, progress)
        return [Imported(Model(self._workspace, each.row), each.is_new, each.notes) for each in arrivals]

    def adopt(
        self,
        directory: str | os.PathLike[str],
        *,
        move: bool = False,
        durability: str | None = None,
        progress: Progress = SILENT,
    ) -> AdoptReport:
        """Save every version in a BentoML home, or in any directory of `name/version/`.

        The versions keep what their `model.yaml` says, and their creation times. It may be run again, also after it was
        cut short. To adopt the tree of the store itself, as when the store stands in a BentoML home, give its home:
        there, files are always taken over, and every version keeps its directory from then on.

        Parameters
        ----------
        directory
            The home, or the directory of names.
        move
            Take the files over where that is possible, without copying them; afterwards they are gone from `directory`.
        durability
            As in `create`.
        progress
            Told how far the saving is.

        Returns
        -------
        AdoptReport
            What was saved, what was there already, and what was refused.

        Raises
        ------
        InvalidSource
            `directory` holds no such tree.
        StoreError
            The store cannot be used.
        OSError
            The system refused something.
        """
        return adopt_action.adopt(
            self._workspace, Path(directory), move=move, durable=self._is_durable(durability), progress=progress
        )

    def sync_tree(
        self, *, prune: bool = False, dry_run: bool = False, durability: str | None = None, progress: Progress = SILENT
    ) -> SyncReport:
        """Take up what other tools, such as BentoML, have done to `models/` without casstore.

        Versions that they saved there are adopted. Where the setting `materialize` is "all", every version without a
        directory is given one.

        Parameters
        ----------
        prune
            Delete the versions whose directories were removed; otherwise they are only reported. `restore_pruned`
            brings them back for `keep_days`.
        dry_run
            Change nothing, and report what would be done.
        durability
            As in `create`.
        progress
            Told how far the saving is.

        Returns
        -------
        SyncReport
            How `models/` and the catalog differed, and what was done.

        Raises
        ------
        StoreError
            The store cannot be used.
        OSError
            The system refused something.
        """
        return sync_tree_action.sync_tree(
            self._workspace, prune=prune, dry_run=dry_run, durable=self._is_durable(durability), progress=progress
        )

    def restore_pruned(self, tag: str | Tag, *, durability: str | None = None) -> Model:
        """Save a version again that `sync_tree(prune=True)` has deleted in the last `keep_days`. Only its pin is lost.

        Parameters
        ----------
        tag
            `name:version`.
        durability
            As in `create`.

        Returns
        -------
        Model
            The restored version.

        Raises
        ------
        TagNotFound
            No such version is kept.
        TagExists
            Another version has the tag.
        IntegrityError
            Bytes of it are lost.
        InvalidTag
            `tag` is not a whole tag.
        OSError
            The system refused something.
        """
        exact = pruned_action.restore(self._workspace, TagQuery.parse(tag), durable=self._is_durable(durability))
        return self.get(exact)

    def _is_durable(self, durability: str | None) -> bool:
        chosen = self._workspace.catalog.setting("durability") if durability is None else durability
        return check_setting("durability", chosen) == "full"

    def gc(
        self,
        *,
        dry_run: bool = False,
        evict_all: bool = False,
        rewrite: bool = False,
        empty_quarantine: bool = False,
        auto: bool = False,
        progress: Progress = SILENT,
    ) -> GcReport:
        """Take away what no version needs, and directories that are not in use. Others may save and read meanwhile.

        A version's directory goes unless the version is the newest of its name, pinned, leased (a living process has
        asked for its `path`), or was saved or opened in the last `keep_days` days, or unless the setting `materialize`
        is "all". The version stays, and its directory is made again when it is asked for.

        Parameters
        ----------
        dry_run
            Change nothing, and report what would be done.
        evict_all
            Take away every directory whose version is neither pinned nor leased.
        rewrite
            Rewrite every pack that gets smaller by it. Otherwise a pack is rewritten once less than half of it is
            needed.
        empty_quarantine
            Also remove what was found damaged, and what stood in directories of deleted versions and was not theirs.
            Look through `quarantine/` first.
        auto
            Run as saves start it: do nothing where automatic gc is switched off, another gc runs, or too little could
            be given back. The report then has no steps.
        progress
            Told how far the work is.

        Returns
        -------
        GcReport
            The steps, and what each has freed.

        Raises
        ------
        StoreLocked
            Another gc runs.

        Examples
        --------
        >>> store.gc(dry_run=True).freed_bytes
        0
        """
        if auto:
            return gc_action.collect_if_due(self._workspace, progress)
        wishes = GcOptions(evict_all, rewrite, empty_quarantine)
        return in_any_room(
            self._workspace, lambda: gc_action.collect(self._workspace, progress, dry_run=dry_run, wishes=wishes)
        )

    def verify(
        self,
        tags: str | Tag | Iterable[str | Tag] | None = None,
        *,
        quick: bool = False,
        progress: Progress = SILENT,
    ) -> VerifyReport:
        """Read everything, compare it with its digests, and compare the catalog with the manifests. Nothing is changed.

        Parameters
        ----------
        tags
            Only what these versions need: chunks, copies, directories, manifests and rows. Each is what `get` takes.
        quick
            Read no file's content but the manifests'. What is gone, was cut short or was written to is found; a flipped
            bit is not.
        progress
            Told how far the reading is.

        Returns
        -------
        VerifyReport
            What was read, and what is damaged.

        Raises
        ------
        TagNotFound
            No version fits one of `tags`.
        AmbiguousTag
            Several versions begin like one of `tags`.
        InvalidTag
            One of `tags` cannot be a tag.
        CatalogDamaged
            The catalog itself is damaged.

        Examples
        --------
        >>> store.verify("bert").is_sound
        True
        """
        rows = None
        if tags is not None:
            wanted = [tags] if isinstance(tags, str | Tag) else tags
            found = (resolve.find(self._workspace.catalog, TagQuery.parse(tag)) for tag in wanted)
            rows = list({row.id: row for row in found}.values())
        return verify_action.verify(self._workspace, progress, quick=quick, rows=rows)

    def repair(self, sources: Iterable[str | os.PathLike[str]] = (), *, progress: Progress = SILENT) -> RepairReport:
        """Read everything, and heal what is damaged from other copies in the store, or from `sources`.

        Damaged files go to `quarantine/`. No version is dropped: what no copy has stays listed, raises IntegrityError
        when it is read, and is healed by saving its content again, or by `repair` with a source that has it.

        Parameters
        ----------
        sources
            Directories or files to search, below which the content may stand under any name; or another store.
        progress
            Told how far the reading is.

        Returns
        -------
        RepairReport
            What is healed, and what is still damaged.

        Raises
        ------
        StoreLocked
            gc runs.
        CatalogDamaged
            The catalog itself is damaged; see `rebuild_catalog`.
        InvalidSource
            A source is not there.
        """
        return repair_action.repair(self._workspace, [Path(source) for source in sources], progress)

    @staticmethod
    def init(
        home: str | os.PathLike[str] | None = None, *, shared: str | None = None, group: str | None = None
    ) -> InitReport:
        """Make a store at `home`, unless one stands there, and share it with other users if that is wanted.

        What stands there already is opened to them too. Only the store's owner can share it, or root.

        Parameters
        ----------
        home
            As in `Store`.
        shared
            "group": every member of the group may save, read and delete, whatever their umask. "all": besides, every
            user may read. None: who may do what does not change.
        group
            The group; by default that of the home.

        Returns
        -------
        InitReport
            What was found or made.

        Raises
        ------
        InvalidSetting
            `shared` is none of these, or there is no such group.
        StoreUnwritable
            The directory cannot be made or written to.
        StoreError
            The store cannot be used.

        Examples
        --------
        >>> casstore.Store.init("models-here").is_new
        True
        """
        return sharing_action.init(layout_of(home), shared, group)

    @staticmethod
    def rebuild_catalog(home: str | os.PathLike[str] | None = None, *, progress: Progress = SILENT) -> RebuildReport:
        """Make the catalog of the store at `home` again from its packs, loose files and manifests.

        For a catalog that is damaged, gone, or older than the store; the old one goes to `quarantine/`. No process may
        use the store meanwhile. Every version comes back with all that was saved with it; settings and pins do not.

        Parameters
        ----------
        home
            As in `Store`.
        progress
            Told how far the reading is.

        Returns
        -------
        RebuildReport
            What the catalog was made from.

        Raises
        ------
        StoreLocked
            A process uses the store.
        StoreError
            No store stands there.
        OSError
            The system refused something.
        """
        return rebuild_action.rebuild_catalog(layout_of(home), progress)

    def backup(
        self, directory: str | os.PathLike[str], *, copy: bool = False, progress: Progress = SILENT
    ) -> BackupReport:
        """Make `directory` a copy of the whole store as it is now, or bring an earlier backup there up to date.

        Others may save, read, delete and collect meanwhile. Only what is new is copied, and what the store no longer
        has goes from the backup too. The backup is a store itself, without `models/`: open it, or copy it elsewhere. It
        is complete once this has returned. When it is cut short, it is what it was before, and the next run goes on.

        Parameters
        ----------
        directory
            The backup: a directory that is not there, is empty, or holds a backup of this store.
        copy
            Copy all bytes. Otherwise files on the same file system share their bytes with the store's, as reflinks or
            else as hardlinks.
        progress
            Told how far the copying is.

        Returns
        -------
        BackupReport
            What the backup holds, and what this run did.

        Raises
        ------
        StoreError
            The directory holds anything else, or versions that this store has neither got nor deleted.
        StoreLocked
            The backup is in use.
        CatalogDamaged
            The catalog is damaged.
        OSError
            The directory cannot be written.

        Examples
        --------
        >>> store.backup("nightly").versions
        1
        """
        return backup_action.backup(self._workspace, Path(os.path.expanduser(directory)), progress, copy=copy)

    def stats(self, name: str | Tag | Collection[str | Tag] | None = None) -> Usage:
        """Count the bytes of the store, of a model, of a version, or of several versions together.

        For versions this includes what deleting them would free. Together that is more than one by one, where they
        share what no other version has.

        Parameters
        ----------
        name
            Nothing for the whole store; the name of a model; a tag; or several tags.

        Returns
        -------
        Usage
            The bytes.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `name` is neither a name nor a tag.

        Examples
        --------
        >>> usage = store.stats("bert:v1")
        >>> usage.logical_bytes, usage.materialized
        (3000020, True)
        """
        catalog = self._workspace.catalog
        if name is not None and not isinstance(name, str | Tag):
            exact = [resolve.exact(catalog, tag) for tag in name]
            rows = [resolve.find(catalog, TagQuery.parse(tag)) for tag in exact]
            return catalog.usage.of_versions(rows, kept_manifests(self._workspace))
        if name is None:
            return catalog.usage.of_store(kept_manifests(self._workspace))
        query = TagQuery.parse(name)
        if query.version is None:
            return catalog.usage.of_model(resolve.known_name(catalog, query.name))
        return catalog.usage.of_version(resolve.find(catalog, query), kept_manifests(self._workspace))

    def events(
        self, since: datetime | timedelta | None = None, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Event]:
        """List what has been done to the store, by whom and when: versions saved, deleted, annotated, pushed; gc.

        A gc or a repair that found nothing to do is not among them.

        The newest 100,000 events are kept. They are in the catalog alone: `rebuild_catalog` begins again without them.
        Reading leaves no trace.

        Parameters
        ----------
        since
            Only events since that time (one without a zone is local), or of the last hours or days.
        limit
            Only the newest so many.
        after
            Only events after the one of this `number`.

        Returns
        -------
        Sequence[Event]
            The oldest first.

        Examples
        --------
        >>> [(event.kind, event.tag) for event in store.events()]
        [('saved', 'bert:v1')]
        """
        return history.events(self._workspace.catalog, since, limit, after)

    def follow_events(self, *, after: int | None = None, timeout: float | None = None) -> Iterator[Event]:
        """Wait for events, whichever process causes them, and return each within a fraction of a second.

        Parameters
        ----------
        after
            Begin with what came after the event of this `number`; None: with what is to come.
        timeout
            End when nothing has come for so many seconds; None: never end.

        Returns
        -------
        Iterator[Event]
            To be read with `for`, in one thread; leaving the loop ends the waiting.

        Examples
        --------
        >>> for event in store.follow_events(after=0, timeout=0):
        ...     print(event.kind, event.tag)
        saved bert:v1
        """
        catalog = self._workspace.catalog
        return history.follow(catalog, catalog.events.last_number() if after is None else after, timeout)

    def names(self) -> Sequence[str]:
        """List the names of all models.

        Returns
        -------
        Sequence[str]
            Sorted.
        """
        return self._workspace.catalog.versions.names()

    def settings(self) -> dict[str, str]:
        """Return every setting with its value; `casstore.SETTINGS` says what they mean.

        Returns
        -------
        dict[str, str]
            Key to value, defaults included.
        """
        return self._workspace.catalog.settings()

    def set_setting(self, key: str, value: str | None) -> None:
        """Change a setting for all who use the store.

        Parameters
        ----------
        key
            One of `casstore.SETTINGS`.
        value
            The new value; None for the default.

        Raises
        ------
        InvalidSetting
            There is no such setting, it does not take this value, or the store's file system lacks this `link_mode`.

        Examples
        --------
        >>> store.set_setting("keep_days", "30")
        >>> store.settings()["keep_days"]
        '30'
        """
        configure.set_setting(self._workspace, key, value)

    def remote(self, name: str | None = None) -> Remote:
        """Return one of the store's remotes, to push to and pull from.

        Parameters
        ----------
        name
            As given to `add_remote`; None for the one that is meant where none is named.

        Returns
        -------
        Remote
            The remote. Nothing is asked of it yet.

        Raises
        ------
        NoRemote
            There is none of that name.

        Examples
        --------
        >>> store.remote("origin").push("bert:v1")[0].is_new
        True
        """
        return Remote._of(self._workspace, remotes_file.read(self._workspace).address(name))

    def remotes(self) -> dict[str, str]:
        """Return the store's remotes.

        Returns
        -------
        dict[str, str]
            Their URLs by name, the one that is meant where none is named first.
        """
        found = remotes_file.read(self._workspace)
        names = sorted(found.remotes, key=lambda name: (name != found.default, name))
        return {name: found.remotes[name].url for name in names}

    def default_remote(self) -> str | None:
        """Return the name of the remote that is meant where none is named.

        Returns
        -------
        str | None
            The name; None where no remote is set up.
        """
        return remotes_file.read(self._workspace).meant

    def add_remote(
        self,
        name: str,
        url: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        anonymous: bool = False,
        profile: str | None = None,
        credential_process: str | None = None,
        single_writer: bool = False,
        make: bool = True,
    ) -> Remote:
        """Set a remote up, in `remotes.toml`; the first is meant where none is named. No secret is kept.

        Parameters
        ----------
        name
            What it is to be called, such as `origin`.
        url
            `s3://bucket/prefix`, `gs://...`, `az://...`, `https://...`, or the path of a directory.
        endpoint, region, anonymous, profile, credential_process
            As of `Remote`.
        single_writer
            Whether a store that ignores conditional creates is taken, since only one machine will ever write there.
        make
            Whether to make a remote there if none stands; the object store is probed first.

        Returns
        -------
        Remote
            The remote.

        Raises
        ------
        RemoteUnsafe
            The object store ignores conditional creates, and `single_writer` is not said.
        RemoteNotFound
            No remote stands there, and none is to be made.
        RemoteError
            It cannot be reached, or there is a remote of that name.
        InvalidSetting
            The name cannot be a remote's.
        """
        address = RemoteAddress(url, endpoint, region, anonymous, profile, credential_process).checked()
        remotes_file.check_new(self._workspace, name)
        with Remote._of(self._workspace, address) as remote:
            remote._ensure(single_writer=single_writer, make=make)
        remotes_file.add(self._workspace, name, address)
        return self.remote(name)

    def remove_remote(self, name: str) -> None:
        """Forget a remote; what stands there stays as it is.

        Parameters
        ----------
        name
            What it is called.

        Raises
        ------
        NoRemote
            There is none of that name.
        """
        remotes_file.remove(self._workspace, name)

    def set_default_remote(self, name: str) -> None:
        """Have a remote meant where none is named.

        Parameters
        ----------
        name
            What it is called.

        Raises
        ------
        NoRemote
            There is none of that name.
        """
        remotes_file.set_default(self._workspace, name)

    def close(self) -> None:
        """Close the files and catalog connections of all threads, and let gc have the directories that were handed out.

        No thread may be using the store.
        """
        if "_workspace" in self.__dict__:
            self._workspace.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.home)!r})"

    def _repr_html_(self) -> str:
        counts = self._workspace.catalog.versions.counts()
        rows = list(counts.items())
        return f"<p>{escape(repr(self))}</p>{table(('model', 'versions'), rows[:MOST_ROWS], len(rows))}"


def _copy(field: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(mapping(field, value))
