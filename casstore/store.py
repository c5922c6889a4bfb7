"""The store, as callers see it: delegates, decides nothing."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from casstore import draft as drafting
from casstore import remotes as remoting
from casstore.actions import configure, elsewhere_file, reserved, resolve
from casstore.actions import sharing as sharing_action
from casstore.actions import signatures as signatures_action
from casstore.actions.comparing import diff as diff_action
from casstore.actions.consistency import held, lost
from casstore.actions.describing import capture as capturing
from casstore.actions.directories import pinning
from casstore.actions.exchange import adopt as adopt_action
from casstore.actions.exchange import arrivals as arriving
from casstore.actions.exchange import backup as backup_action
from casstore.actions.exchange import checkout as checkout_action
from casstore.actions.exchange import elsewhere, exporting, importing, remotes_file
from casstore.actions.exchange import pruned as pruned_action
from casstore.actions.exchange import sync_tree as sync_tree_action
from casstore.actions.gc import collect as gc_action
from casstore.actions.gc import report as gc_report
from casstore.actions.health import rebuild as rebuild_action
from casstore.actions.health import repair as repair_action
from casstore.actions.health import verify as verify_action
from casstore.actions.home import layout_of, open_workspace
from casstore.actions.registry import aliases as aliases_action
from casstore.actions.registry import annotating, forgetting, history, likeness, searching
from casstore.actions.registry import lineage as lineage_action
from casstore.actions.registry import policies as policies_action
from casstore.actions.registry import rules as keep_rules
from casstore.actions.registry import trash as trash_action
from casstore.actions.reopening import Address
from casstore.actions.saving import background as saving_later
from casstore.actions.saving import delete as delete_action
from casstore.actions.saving import drafts as drafts_action
from casstore.actions.saving import trust as trust_action
from casstore.archive import formats, model_signing
from casstore.description import Description
from casstore.errors import InvalidTag, TagNotFound
from casstore.model import Imported, Model, Models, table_of
from casstore.notebook import MOST_ROWS, paragraph, table
from casstore.plain_json import mapping
from casstore.progress import SILENT
from casstore.remote import address as addresses
from casstore.settings import check_setting
from casstore.tag import Anywhere, Tag, TagQuery

if TYPE_CHECKING:
    from casstore.actions.comparing.difference import Diff
    from casstore.actions.exchange.adopt import AdoptReport
    from casstore.actions.exchange.backup import BackupReport
    from casstore.actions.exchange.sync_tree import SyncReport
    from casstore.actions.gc.report import GcReport
    from casstore.actions.health.rebuild import RebuildReport
    from casstore.actions.health.repair import RepairReport
    from casstore.actions.health.verify import VerifyReport
    from casstore.actions.registry.forgetting import ForgetPlan
    from casstore.actions.registry.likeness import LikelyParent
    from casstore.actions.registry.lineage import Lineage
    from casstore.actions.registry.rules import KeepRules
    from casstore.actions.registry.trash import DeletedVersion
    from casstore.actions.saving.drafts import KeptDraft
    from casstore.actions.sharing import InitReport
    from casstore.actions.signatures import Signature
    from casstore.actions.workspace import Workspace
    from casstore.annotated import Annotation
    from casstore.catalog.aliases import Alias, AliasMove
    from casstore.catalog.events import Event
    from casstore.catalog.remotes import Elsewhere
    from casstore.catalog.usage import Usage
    from casstore.catalog.versions import VersionRow
    from casstore.draft import Draft
    from casstore.progress import Progress
    from casstore.remotes import Remote, RemoteModel
    from casstore.storage.manifest import Base
    from casstore.storage.parents import Parent

# A name outside the class, whose own `list` hides the type.
_Imports = list[Imported]


_log = logging.getLogger("casstore")


class Store:
    """A store of models in one directory, its home.

    A store is a context manager; `close` may also be called. Threads may share it, and a forked child may go on using
    it. It can be pickled and copied, together with what a subclass has put on it: the store is opened again where the
    copy is first used. `casstore.store_at` gives one that is opened once in a process.

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
        parents: Iterable[Any] | None = None,
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
        capture: bool = False,
        background: bool = False,
        progress: Progress = SILENT,
    ) -> Draft:
        """Begin a new version: `with store.create("bert") as draft:`, and put files into `draft.path`.

        The version is saved when the block ends, and not at all when the block raises. When saving fails, the files are
        kept for `keep_days` (a setting): the error says where (`error.draft_path`), `drafts` lists them, and
        `save_draft` saves them after all.

        A draft can also be used without a block: it is saved by `Draft.commit`, and removed by `Draft.discard`.

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
            the newest version of the same name. One that is still being saved in the background is waited for.
        parents
            What it came from: tags and URIs, each with a word for the relation, such as
            `[("chat:v1", "finetune"), ("hf://org/base@rev", "finetune"), ("sst2@sha256:...", "dataset")]`; also
            `Model.parents` of another version. A `base` that is named is one too; an empty list says that there is
            none. By default the base, and what an `adapter_config.json`, the `base_model` of a `README.md` (a model
            card), and `metadata["huggingface"]` say. Those that are still being saved in the background are waited for.
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
        capture
            Record in `metadata["capture"]` where it was made: the git commit of the working directory and whether
            files differ from it, the command line, the host, and the versions of Python and of installed packages. No
            environment variables; arguments that look like secrets are left out, as far as that can be told.
        background
            The end of the block hands the draft over to a thread that saves it, and does not wait: see
            `Draft.commit_async`. `Draft.future` then tells how it went.
        progress
            Told how far the saving is; by the thread that saves, in the background.

        Returns
        -------
        Draft
            To be entered with `with`, once; or to be committed or discarded by a call.

        Raises
        ------
        InvalidTag
            `tag` cannot be a tag.
        TagExists
            The tag is taken; also at the end of the block, when another process has taken it meanwhile.
        TagNotFound
            There is no version `base`, or none that one of `parents` names.
        InvalidMetadata
            Labels, metadata, parents or another description cannot be recorded.
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
        if base is not None:
            saving_later.wait_for(self._workspace, TagQuery.parse(base).name)
        about = {**({"capture": capturing.captured()} if capture else {}), **_copy("metadata", metadata)}
        said = Description(
            labels=_copy("labels", labels), metadata=about, module=module,
            signatures=_copy("signatures", signatures), options=options, api_version=api_version, context=context,
        )  # fmt: skip
        from_base = resolve.base(self._workspace.catalog, tag, base)
        wishes = drafting.Wishes(
            base=from_base, is_base_said=base is not None,
            custom_objects=_copy("custom_objects", custom_objects), durability=durability, materialize=materialize,
            keep_on_error=keep_on_error, exist_ok=exist_ok, background=background,
            parents=self._parents(parents, None if base is None else from_base),
        )  # fmt: skip
        return drafting.Draft(self._workspace, new_tag, said, wishes, progress)

    def _parents(self, said: Iterable[Any] | None, base: Base | None) -> tuple[Parent, ...] | None:
        """What a new version comes from; what is still being saved in the background of it is waited for."""
        wait = functools.partial(saving_later.wait_for, self._workspace)
        return resolve.said_parents(self._workspace.catalog, said, base, wait)

    def drafts(self) -> Sequence[KeptDraft]:
        """List the drafts that could not be saved and are kept; gc removes them after `keep_days`.

        What is to be saved in the background is among them until it is saved.

        Returns
        -------
        Sequence[KeptDraft]
            The oldest first.
        """
        if self._workspace.before_close:  # this store has had drafts
            drafting.keep_abandoned()
        return drafts_action.kept_drafts(self._workspace)

    def save_draft(
        self,
        draft: str | KeptDraft,
        tag: str | Tag | None = None,
        *,
        labels: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        base: str | Tag | None = None,
        parents: Iterable[Any] | None = None,
        durability: str | None = None,
        materialize: bool | None = None,
        exist_ok: bool = False,
        progress: Progress = SILENT,
    ) -> Model:
        """Save a kept draft, and keep it no longer.

        The draft is saved with the description that it was to be saved with, as far as that could be kept. Its
        `created_at` is when the draft was kept, or handed over to be saved in the background: what has been saved since
        then is newer. On any error it stays kept.

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
        parents
            As in `create`; by default those that were said of the draft.
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
        kept = drafts_action.find(self._workspace, draft.id if isinstance(draft, drafts_action.KeptDraft) else draft)
        with drafts_action.held(self._workspace, kept) as record:
            said = record.description
            came_from = drafts_action.parents_of(record)
            if parents is not None:
                if base is not None:
                    saving_later.wait_for(self._workspace, TagQuery.parse(base).name)
                named = None if base is None else resolve.base(self._workspace.catalog, base, base)
                came_from = self._parents(parents, named)
            if tag is None and not record.tag:
                raise InvalidTag(f"nothing is known of the draft {kept.id} but its files; say as what to save it")
            drafts_action.check_open(kept)
            new = self.create(
                tag or record.tag, base=base or drafts_action.base_of(self._workspace, record),
                **{
                    **said.said(), "labels": {**said.labels, **_copy("labels", labels)},
                    "metadata": {**said.numbers, **_copy("metadata", metadata)},
                },
                durability=durability or record.durability or None,
                materialize=record.materialize if materialize is None else materialize, exist_ok=exist_ok,
                progress=progress,
            )  # fmt: skip
            new.take_kept(
                kept.id, drafts_action.objects_of(kept), is_base_said=base is not None, parents=came_from,
                kept_at_ns=drafts_action.kept_at_ns(kept),
            )  # fmt: skip
            with new:
                new.take_from(Path(kept.path), move=True, allow_empty=True, ignore=False)
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
        kept = drafts_action.find(self._workspace, draft.id if isinstance(draft, drafts_action.KeptDraft) else draft)
        with drafts_action.held(self._workspace, kept):
            drafts_action.remove(self._workspace, kept.directory)
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
        parents: Iterable[Any] | None = None,
        module: str = "",
        api_version: str = "v1",
        signatures: Mapping[str, Any] | None = None,
        options: Any = None,
        context: Any = None,
        custom_objects: Mapping[str, Any] | None = None,
        durability: str | None = None,
        materialize: bool = True,
        exist_ok: bool = False,
        capture: bool = False,
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
            `metadata["huggingface"]`. Its files are links, and are followed; such a snapshot cannot be moved.
        exclude
            Patterns, written as in a `.gitignore`, of what to leave out.
        ignore
            False: take what is usually left out, and read no `.casstoreignore`. `exclude` still counts.
        labels, metadata, base, parents, module, api_version, signatures, options, context, custom_objects
            As in `create`.
        durability, materialize, exist_ok, capture
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
            tag, labels=labels, metadata=metadata, base=base, parents=parents, module=module, api_version=api_version,
            signatures=signatures, options=options, context=context, custom_objects=custom_objects,
            durability=durability, materialize=materialize, exist_ok=exist_ok, capture=capture, progress=progress,
        ) as draft:  # fmt: skip
            draft.take_from(
                Path(path), move=move, allow_empty=allow_empty, from_hf=from_hf, exclude=exclude, ignore=ignore
            )
        if draft.left_out:
            _log.info("%s: left out of %s: %s", draft.tag, path, ", ".join(draft.left_out))
        if draft.left_behind:
            _log.warning("%s is saved, and these are still there: %s", draft.tag, ", ".join(draft.left_behind))
        return draft.model

    def get(self, tag: str | Tag, *, pull: bool = True) -> Model:
        """Return the version of a tag.

        An exact match wins over a prefix. Only the catalog is read: nothing is written, locked or waited for.
        `Model.path` looks at the version's directory, and mends it. A version that is not here is pulled if `evict` has
        left it to a remote, or if the setting `pull_missing` names one.

        Parameters
        ----------
        tag
            `name:version`; a name alone, or `name:latest`, for the newest version; a prefix that only one version has;
            `name@alias`; or `name@alias~n`, for what the alias meant n moves before.
        pull
            False to take what is not here for not found, wherever else it may be.

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
        InvalidSignature
            It is in a remote alone, and has no valid signature as the setting `require_signature` asks for.
        RemoteError
            The remote that has it cannot be reached.

        Examples
        --------
        >>> store.get("bert")
        Model('bert:v1')
        """
        return Model(self._workspace, self._find(tag, pull=pull))

    def _find(self, tag: str | Tag, *, pull: bool = True) -> VersionRow:
        query = TagQuery.parse(tag)
        try:
            return resolve.find(self._workspace.catalog, query)
        except TagNotFound:
            missing = elsewhere.missing(self._workspace, query) if pull else None
            if missing is None:
                raise
            with self.remote(missing.remote) as there:
                pulled = there.pull(missing.text, materialize=False)[0].model.tag
        return resolve.find(self._workspace.catalog, TagQuery.parse(pulled))

    @contextlib.contextmanager
    def look(self, tag: str | Tag) -> Iterator[Model | RemoteModel]:
        """Give the version of a tag to a `with` block that looks at it, without pulling it.

        It is what `get` would return; where `get` would have to pull it first, it is the version as its remote has it.

        Parameters
        ----------
        tag
            As for `get`.

        Yields
        ------
        Model | RemoteModel
            The version. Both have `tag`, `digest`, `size`, `created_at`, `files`, `labels`, `metadata` and `open`.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.
        TagExists
            `evict` has left it to a remote, and another version has its tag there now.
        RemoteError
            The remote that has it cannot be reached.

        Examples
        --------
        >>> with store.look("bert") as model:
        ...     model.open("config.json").read()
        b'{"hidden_size": 384}'
        """
        query = TagQuery.parse(tag)
        try:
            model = Model(self._workspace, resolve.find(self._workspace.catalog, query))
        except TagNotFound:
            missing = elsewhere.missing(self._workspace, query)
            if missing is None:
                raise
        else:
            yield model
            return
        with self.remote(missing.remote) as there:
            found = there.get(missing.text)
            missing.check(found.tag, found.digest)
            yield found

    def exists(self, tag: str | Tag) -> bool:
        """Tell whether this very version is saved.

        A name alone, or `name:latest`, stands for any version of that name, and `name@alias` for the one it means.

        A prefix is not enough, unlike in `get`. `tag in store` does this too, and is false for what cannot be a tag.

        Parameters
        ----------
        tag
            `name:version`, `name:latest`, `name@alias` or a name.

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

    def list(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, Any] | None = None,
        where: str | None = None,
        sort: str | Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Models:
        """List versions, by name and newest first, or as `sort` says.

        An expression compares fields and joins comparisons with `and`, `or`, `not` and parentheses:
        `metrics.acc > 0.9 and labels.stage = prod`. It is compiled to SQL, and what a version lacks fits no comparison.

        * Fields are `tag`, `name`, `version`, `size`, `files`, `created`, `opened`, `pinned`, `base`, `digest`,
          `alias`, `labels.KEY`, `metadata.PATH`, `metrics.NAME` and `params.NAME`. `metrics.acc` is
          `metadata.metrics.acc`, or `metadata.acc` where that is absent. A part of a path that has dots, quotes or
          blanks in it stands between quotes; a dot in a key and one between keys are the same.
        * Comparisons are `=`, `!=`, `<`, `<=`, `>`, `>=`, `in (...)`, `not in (...)`, `exists`, `like` (with `%` and
          `_`, whatever the case of ASCII letters) and `~` (a pattern with `*`, `?` and `[...]`). Text is neither more
          nor less than a number. Of a list, one item must fit.
        * Values are numbers, also with units (`1.5GiB`, `500MB`), text with or without quotes, `true` and `false`.
          A time is compared with an age (`created < 7d`: within the last week; `s m h d w mo y`) or with a date
          (`created >= 2026-11-01`, in local time where it has no offset).

        Parameters
        ----------
        name
            Only the versions of this name, or of names that fit a pattern such as `run-*`. A name without versions
            gives an empty list.
        labels
            Only versions that have all these labels.
        where
            Only versions that fit this expression.
        sort
            Fields to sort by, such as "-metrics.acc,name" or a list of them; a minus stands for the largest first.
            Versions without the field come last, and what fields do not decide is sorted by time, newest first.
        limit
            At most that many.

        Returns
        -------
        Models
            A list of `Model`, read when it is first looked at; a notebook shows it as a table.

        Raises
        ------
        InvalidTag
            `name` cannot be a name.
        InvalidMetadata
            `labels` cannot be labels.
        InvalidQuery
            `where` or `sort` cannot be understood; the message shows the place.

        Examples
        --------
        >>> store.list("bert", labels={"stage": "dev"})
        [Model('bert:v1')]
        >>> store.list(where="metrics.accuracy > 0.9 and created < 7d", sort="-metrics.accuracy", limit=5)
        [Model('bert:v1')]
        """
        wanted = searching.Wanted(name, labels, where, sort, limit)
        return Models._of(self._workspace, searching.search_of(self._workspace.catalog, wanted))

    def count(
        self, name: str | None = None, *, labels: Mapping[str, Any] | None = None, where: str | None = None
    ) -> int:
        """Count versions, without reading them.

        Parameters
        ----------
        name, labels, where
            As in `list`.

        Returns
        -------
        int
            How many versions fit.

        Raises
        ------
        InvalidTag, InvalidMetadata, InvalidQuery
            As from `list`.

        Examples
        --------
        >>> store.count(where="size > 1MB")
        1
        """
        wanted = searching.Wanted(name, labels, where)
        return self._workspace.catalog.searches.count(searching.search_of(self._workspace.catalog, wanted))

    def unknown_fields(
        self, *, labels: Mapping[str, Any] | None = None, where: str | None = None
    ) -> Mapping[str, str | None]:
        """Tell which fields of a search no version has, as where a name is mistyped.

        Parameters
        ----------
        labels, where
            As in `list`.

        Returns
        -------
        Mapping[str, str | None]
            By each field with a path that no version has, such as `metrics.acuracy`, the nearest that one has; None
            where there is none like it.

        Raises
        ------
        InvalidMetadata, InvalidQuery
            As from `list`.

        Examples
        --------
        >>> store.unknown_fields(where="metrics.acuracy > 0.9 and labels.stage = dev")
        {'metrics.acuracy': 'metrics.accuracy'}
        """
        wanted = searching.Wanted(labels=labels, where=where)
        return searching.unknown_fields(self._workspace.catalog, wanted)

    def table(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, Any] | None = None,
        where: str | None = None,
        sort: str | Sequence[str] | None = None,
        limit: int | None = None,
        columns: str | Sequence[str] | None = None,
    ) -> Sequence[dict[str, Any]]:
        """List versions as rows of a table, which `pandas.DataFrame` takes as they are.

        Parameters
        ----------
        name, labels, where, sort, limit
            As in `list`.
        columns
            Fields, such as "tag,metrics.acc,size" or a list of them. One that has many values, such as `labels` or
            `metrics`, gives a column for each. By default tag, size, files, created, labels and metadata.

        Returns
        -------
        Sequence[dict[str, Any]]
            One row for each version: text, numbers, UTC times; None for a field that is asked for by name and that the
            version lacks.

        Raises
        ------
        InvalidTag, InvalidMetadata, InvalidQuery
            As from `list`.

        Examples
        --------
        >>> store.table("bert", columns="tag,labels.stage,metrics.accuracy")
        [{'tag': 'bert:v1', 'labels.stage': 'dev', 'metrics.accuracy': 0.93}]
        """
        fields = searching.columns_of(self._workspace.catalog, columns)
        return table_of(self._workspace, self.list(name, labels=labels, where=where, sort=sort, limit=limit), fields)

    def lineage(self, tag: str | Tag, *, depth: int = 20, limit: int = 1000) -> Lineage:
        """Tell what a version came from and what came from it, and how much of each was changed.

        Only the catalog is read. A parent that was deleted is there as gone, also where its tag means another version
        now.

        Parameters
        ----------
        tag
            As in `get`.
        depth
            How many generations to follow in either direction.
        limit
            How many ancestors, and how many descendants, to follow at most.

        Returns
        -------
        Lineage
            Two trees, each as a list.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.
        InvalidSetting
            `depth` or `limit` is out of range.

        Examples
        --------
        >>> lineage = store.lineage("bert:v1")
        >>> [(each.relation, str(each), each.changed) for each in lineage.ancestors]
        []
        """
        row = resolve.find(self._workspace.catalog, TagQuery.parse(tag))
        return lineage_action.lineage(self._workspace, row, depth, limit)

    def likely_parents(
        self, tag: str | Tag, *, name: str | None = None, limit: int = 10, progress: Progress = SILENT
    ) -> Sequence[LikelyParent]:
        """List the versions that a version most likely came from, by how many of its tensors stand in them.

        Every recipe of the store is looked at once; no content is read, and a few recipes are in memory at a time.

        Parameters
        ----------
        tag
            As in `get`.
        name
            Only versions of this name.
        limit
            How many to list at most, up to 1,000.
        progress
            Told how far the looking is.

        Returns
        -------
        Sequence[LikelyParent]
            The likeliest first; empty where nothing has anything in common with it. What is known to have come from the
            version is left out.

        Raises
        ------
        TagNotFound
            No version fits, or none has this name.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag, or `name` a name.
        InvalidSetting
            `limit` is out of range.
        IntegrityError
            The catalog's record of a version is damaged.

        Examples
        --------
        >>> store.likely_parents("bert:v1")
        []
        """
        catalog = self._workspace.catalog
        row = resolve.find(catalog, TagQuery.parse(tag))
        among = None if name is None else resolve.known_name(catalog, name)
        return likeness.likely_parents(self._workspace, row, among, limit, progress)

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

    def diff(
        self,
        a: str | Tag,
        b: str | Tag | os.PathLike[str],
        *,
        values: bool = False,
        tensors: str | None = None,
        progress: Progress = SILENT,
    ) -> Diff:
        """Tell what differs between two versions, or between a version and files that are not saved.

        Files, labels, metadata and, of JSON and YAML files, the values in them; tensors by name, from what the catalog
        knows of their chunks. Only documents that differ, and the pickles that name the tensors of PyTorch's files
        (which are not unpickled), are read. What is damaged is named in `damage`, and the rest is compared. Files are
        hashed and cut as `save` would, and nothing is stored.

        Parameters
        ----------
        a
            The older version, as `get` takes it.
        b
            The newer one, or the path of a directory or file: text that is no tag of a version, or has a `/` in it.
        values
            Read the tensors that have changed, and tell by how much their numbers have. Memory does not grow with them.
        tensors
            Only tensors whose names match this pattern, as of a shell: `encoder.layer.1*`. None for all.
        progress
            Is told how much is hashed and read.

        Returns
        -------
        Diff
            What differs; `is_same` says whether nothing does.

        Raises
        ------
        TagNotFound
            There is no such version, and no such path.
        IntegrityError
            The catalog's record of a version's files is damaged.
        InvalidSource
            A file in the directory could not be saved.
        FileChanged
            A file in the directory was written to meanwhile.

        Examples
        --------
        >>> from pathlib import Path
        >>> _ = Path("out", "config.json").write_text('{"hidden_size": 512}')
        >>> found = store.diff("bert:v1", "out")
        >>> [(each.change.value, each.path) for each in found.files]
        [('changed', 'config.json')]
        >>> [(each.path, each.old, each.new) for each in found.documents[0].changes]
        [('$.hidden_size', 384, 512)]
        """
        wishes = diff_action.Wishes(values, tensors)
        return diff_action.compare(self._workspace, self._row(a), self._row_or_path(b), wishes, progress)

    def _row(self, tag: str | Tag) -> VersionRow:
        return resolve.find(self._workspace.catalog, TagQuery.parse(self.get(tag).tag))

    def _row_or_path(self, version: str | Tag | os.PathLike[str]) -> VersionRow | Path:
        if not isinstance(version, str | Tag) or (isinstance(version, str) and diff_action.is_path(version)):
            return Path(version)
        try:
            return self._row(version)
        except (TagNotFound, InvalidTag):
            if isinstance(version, str) and os.path.lexists(version):
                return Path(version)
            raise

    def delete(
        self, tag: str | Tag | Iterable[str | Tag], *, now: bool = False, drop_aliases: bool = False
    ) -> Sequence[str]:
        """Delete exactly this version, or several. They go to the trash, from where `undelete` brings them back.

        Their directories go at once. Their bytes go with the first `gc` after `trash_days` days (a setting, 7), or with
        `gc(empty_trash=True)`. Their tags are free again.

        What users have put into these directories, or changed there, is not the versions' own: it goes to
        `quarantine/`. Of several versions those of one name go in one transaction: all of them, or none where one is
        deleted meanwhile. Names go one after another, so an error in the middle leaves earlier names deleted.

        Parameters
        ----------
        tag
            `name:version`, or several of them. A prefix, a name alone, `latest` or an alias is not enough.
        now
            Delete for good, past the trash: the next `gc` takes the bytes.
        drop_aliases
            Delete the aliases that mean these versions, too. Otherwise a version that has one is not deleted.

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
        VersionAliased
            An alias means one of them; none of its name is deleted.
        AliasProtected
            One of the aliases is protected; likewise.

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
            delete = functools.partial(delete_action.delete, self._workspace, group, now=now, with_aliases=drop_aliases)
            kept += reserved.in_any_room(self._workspace, delete)
        return kept

    def deleted(self, name: str | None = None) -> Sequence[DeletedVersion]:
        """List what is in the trash: deleted versions that `undelete` can bring back.

        Parameters
        ----------
        name
            Only versions that had this name.

        Returns
        -------
        Sequence[DeletedVersion]
            The last deleted first.

        Raises
        ------
        InvalidTag
            `name` cannot be a name.

        Examples
        --------
        >>> store.delete("bert:v1")
        []
        >>> [str(each.tag) for each in store.deleted()]
        ['bert:v1']
        """
        return trash_action.deleted(self._workspace, None if name is None else resolve.name(name))

    def undelete(self, tag: str | Tag, *, as_: str | Tag | None = None, which: str | None = None) -> Model:
        """Bring a deleted version back: its files, all that was said of it, and its place among the versions.

        Aliases stay where they are.

        Parameters
        ----------
        tag
            `name:version`, or the beginning of it that only one deleted version has. Of several that had the same tag,
            the last deleted comes back.
        as_
            Another tag for it, such as where its own has been given to another version meanwhile.
        which
            The beginning of the id or digest of the one that is meant: see `deleted`.

        Returns
        -------
        Model
            The version.

        Raises
        ------
        TagNotFound
            No such version is in the trash.
        AmbiguousTag
            Several deleted versions begin like this.
        TagExists
            Another version has the tag.
        InvalidTag
            `tag` or `as_` cannot be a tag.
        IntegrityError
            The store's records of it are damaged.
        OSError
            The system refused something.

        Examples
        --------
        >>> store.delete("bert:v1")
        []
        >>> store.undelete("bert:v1")
        Model('bert:v1')
        """
        found = trash_action.find(self._workspace, TagQuery.parse(tag), which)
        target = found.version.tag if as_ is None else resolve.new_tag(self._workspace.catalog, as_)
        bring = functools.partial(trash_action.undelete, self._workspace, found, target)
        return self.get(reserved.in_any_room(self._workspace, bring))

    def _forget_elsewhere(self, tag: str | Tag) -> bool:
        """Whether that was the name of a version that only a remote has; it is forgotten here, and stays there."""
        query = TagQuery.parse(tag)
        for each in self._workspace.catalog.remotes.elsewhere(query.name):
            if each.tag.version == query.version:
                elsewhere_file.forget(self._workspace, each.tag)
                return True
        return False

    def forget(
        self,
        names: str | Iterable[str] = (),
        *,
        keep_last: int | None = None,
        keep_best: str | Iterable[str] = (),
        keep_hourly: int | None = None,
        keep_daily: int | None = None,
        keep_weekly: int | None = None,
        keep_monthly: int | None = None,
        keep_yearly: int | None = None,
        keep_within: str | timedelta | None = None,
        since_newest: bool = False,
        keep_every: str | Iterable[str] = (),
        keep_label: str | Iterable[str] = (),
        keep_where: str | Iterable[str] = (),
        policies: bool = False,
        dry_run: bool = True,
    ) -> ForgetPlan:
        """Delete the versions of names that no rule keeps, or say which these are.

        A version stays that any of the rules keeps. The newest version of a name stays always, and so does one that is
        pinned or has an alias. The others go to the trash, as by `delete`, and their bytes come back when gc takes them
        from there. Those of one name go in one transaction; names go one after another.

        Parameters
        ----------
        names
            A name, a pattern of names such as "run-*", or several.
        keep_last
            Keep so many of the newest.
        keep_best
            `FIELD:max:N` or `FIELD:min:N`: keep the N versions with the largest or the least number there, such as
            "metrics.f1:max:3". A field is below `metrics.`, `params.` or `metadata.`; `metrics.f1` is the metadata's
            `metrics.f1`, or else its `f1`.
        keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly
            Keep the newest version of each of the last so many hours, days, weeks, months or years that have any, in
            UTC.
        keep_within
            Keep all that are not older than that, counted from now: "36h", "14d", "8w", "6mo", "1y6mo".
        since_newest
            Count `keep_within` from the newest version of the name instead.
        keep_every
            `FIELD:N`: of each N of a number keep the first, such as "metadata.step:1000".
        keep_label
            `KEY=VALUE`, or `KEY` for any value.
        keep_where
            An expression such as "metrics.acc > 0.9 and labels.stage = prod": keep what fits it.
        policies
            Go by the stored policies instead of by rules, for these names or for all that they match. A name of which
            they keep nothing is left as it is.
        dry_run
            False: do it. True: only say what would go.

        Returns
        -------
        ForgetPlan
            Each version with whether it stays, why, and what comes back with it.

        Raises
        ------
        InvalidPolicy
            A rule cannot be understood, there is none, or the rules keep nothing of a name; nothing is forgotten. A
            version that is newer than now is kept by every rule that goes by age.
        InvalidQuery
            An expression cannot be understood; the message shows the place.
        TagNotFound
            There are no versions of such a name.
        InvalidTag
            One of `names` cannot be a name.
        StoreLocked
            Another process has held a lock for too long.

        Examples
        --------
        >>> plan = store.forget("bert", keep_last=1)
        >>> [str(tag) for tag in plan.kept], plan.forgotten, plan.dry_run
        (['bert:v1'], (), True)
        """
        with searching.telling_what_there_is(self._workspace.catalog):
            rules = keep_rules.KeepRules.of({
                "keep_last": keep_last, "keep_best": keep_best, "keep_hourly": keep_hourly, "keep_daily": keep_daily,
                "keep_weekly": keep_weekly, "keep_monthly": keep_monthly, "keep_yearly": keep_yearly,
                "keep_within": keep_within, "since_newest": since_newest, "keep_every": keep_every,
                "keep_label": keep_label, "keep_where": keep_where,
            })  # fmt: skip
        wanted = [names] if isinstance(names, str) else [*names]
        planned = (policies_action.plan_by_policies if policies else policies_action.plan)(
            self._workspace, wanted, rules
        )
        return planned if dry_run else self.forget_planned(planned)

    def forget_planned(self, plan: ForgetPlan) -> ForgetPlan:
        """Do what a plan says that `forget` has made, after somebody has looked at it.

        What a rule keeps by now, or has been pinned or given an alias meanwhile, stays, and so does what has been saved
        meanwhile.

        Parameters
        ----------
        plan
            The plan.

        Returns
        -------
        ForgetPlan
            What has been done.

        Raises
        ------
        InvalidPolicy
            By now the rules keep nothing of a name.
        StoreLocked
            Another process has held a lock for too long; earlier names are done.
        OSError
            The system refused something; earlier names are done.

        Examples
        --------
        >>> store.forget_planned(store.forget("bert", keep_within="14d")).forgotten
        ()
        """
        return forgetting.carry_out(self._workspace, plan)

    def set_policy(
        self,
        pattern: str,
        *,
        keep_last: int | None = None,
        keep_best: str | Iterable[str] = (),
        keep_hourly: int | None = None,
        keep_daily: int | None = None,
        keep_weekly: int | None = None,
        keep_monthly: int | None = None,
        keep_yearly: int | None = None,
        keep_within: str | timedelta | None = None,
        since_newest: bool = False,
        keep_every: str | Iterable[str] = (),
        keep_label: str | Iterable[str] = (),
        keep_where: str | Iterable[str] = (),
    ) -> str:
        """Store rules by which versions of some names are forgotten from now on, after each save and by `gc`.

        A save forgets no more than 100 versions, the oldest first, and never the one just saved; `gc` does the rest.
        Neither takes a version that another process is using at that moment. Of a name that several policies match,
        what any of them keeps stays.

        Parameters
        ----------
        pattern
            A name, or a pattern of names such as "run-*". An earlier policy of the same pattern is replaced.
        keep_last, keep_best, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, keep_within
            As in `forget`.
        since_newest, keep_every, keep_label, keep_where
            As in `forget`.

        Returns
        -------
        str
            The pattern, as it is kept.

        Raises
        ------
        InvalidPolicy
            A rule cannot be understood, there is none, or they keep nothing of a name that is here already.
        InvalidQuery
            An expression cannot be understood; the message shows the place.
        InvalidTag
            `pattern` cannot be a name.
        StoreLocked
            Another process has held a lock for too long.

        Examples
        --------
        >>> store.set_policy("run-*", keep_last=3, keep_best="metrics.eval_loss:min:1")
        'run-*'
        >>> str(store.policies()["run-*"])
        '--keep-last 3 --keep-best metrics.eval_loss:min:1'
        """
        with searching.telling_what_there_is(self._workspace.catalog):
            rules = keep_rules.KeepRules.of({
                "keep_last": keep_last, "keep_best": keep_best, "keep_hourly": keep_hourly, "keep_daily": keep_daily,
                "keep_weekly": keep_weekly, "keep_monthly": keep_monthly, "keep_yearly": keep_yearly,
                "keep_within": keep_within, "since_newest": since_newest, "keep_every": keep_every,
                "keep_label": keep_label, "keep_where": keep_where,
            })  # fmt: skip
        return policies_action.set_policy(self._workspace, pattern, rules)

    def unset_policy(self, pattern: str) -> str:
        """Take a policy away. No version is brought back by that.

        Parameters
        ----------
        pattern
            The pattern of the policy, exactly.

        Returns
        -------
        str
            The pattern, as it was kept.

        Raises
        ------
        InvalidPolicy
            There is no such policy.
        StoreLocked
            Another process has held a lock for too long.
        """
        return policies_action.unset_policy(self._workspace, pattern)

    def policies(self, name: str | None = None) -> dict[str, KeepRules]:
        """Return the stored policies.

        Parameters
        ----------
        name
            Only those that match this name.

        Returns
        -------
        dict[str, KeepRules]
            The rules by pattern.

        Raises
        ------
        InvalidPolicy
            One cannot be read, as one that a newer casstore has stored.
        InvalidTag
            `name` cannot be a name.
        """
        return policies_action.policies(self._workspace, name)

    def evict(self, tag: str | Tag | Iterable[str | Tag], *, to_remote: str | None = None) -> Sequence[str]:
        """Give up the bytes of versions here that a remote has, once they have been seen there. The names stay.

        `get` pulls such a version when it is asked for. The newest version of a name, one that is pinned, one that an
        alias means, and one in use by a process stay.

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
        VersionAliased
            One is to stay, since an alias means it; likewise.
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
        row = self._find(tag, pull=pinned)
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

    def set_alias(
        self, alias: str, tag: str | Tag, *, expected: str | Tag | Anywhere | None = Anywhere.ANYWHERE,
        reason: str = "", force: bool = False,
    ) -> Alias:  # fmt: skip
        """Have `name@alias` mean a version of that name, from now on.

        Every such move is kept, with the time, who made it and why: see `alias_history`. Where the alias means that
        version already, nothing is changed or noted. The version can not be deleted as long as an alias means it, and
        gc leaves its directory alone.

        Parameters
        ----------
        alias
            `name@alias`. An alias is written as a name is, and is neither `latest` nor `v` and a number.
        tag
            What `get` takes.
        expected
            The version that it must mean until then, or None where there must be no such alias. Of several processes
            that expect the same, one moves the alias, and the others get AliasMoved. By default it is moved from
            wherever it stands.
        reason
            Why, for whoever reads the history.
        force
            Move it even if it is protected; it stays protected.

        Returns
        -------
        Alias
            The alias as it stands now.

        Raises
        ------
        AliasMoved
            It does not mean what was expected; `error.current` is what it means.
        AliasProtected
            It is protected.
        TagNotFound
            No version fits `tag`.
        AmbiguousTag
            Several versions begin like `tag`.
        InvalidTag
            `alias` cannot be an alias, or `tag` is of another name.
        InvalidMetadata
            `reason` is not text, or too long.
        StoreLocked
            Another process is at the aliases of this name for too long.

        Examples
        --------
        >>> str(store.set_alias("bert@prod", "bert:v1", reason="accuracy 0.93").tag)
        'bert:v1'
        >>> store.get("bert@prod")
        Model('bert:v1')
        """
        return aliases_action.set_alias(self._workspace, alias, tag, expected, reason, force=force)

    def aliases(self, name: str | None = None) -> Sequence[Alias]:
        """List the aliases, and where each stands.

        Parameters
        ----------
        name
            Only those of this name.

        Returns
        -------
        Sequence[Alias]
            By name and alias.

        Raises
        ------
        InvalidTag
            `name` cannot be a name.
        """
        return aliases_action.standing(self._workspace, name)

    def alias_history(self, alias: str, *, at: datetime | None = None) -> Sequence[AliasMove]:
        """List what was done to an alias, also to one that has been deleted.

        Parameters
        ----------
        alias
            `name@alias`.
        at
            Only what held at this time: the last that was not later, by the clock of its time. A time without a zone is
            local.

        Returns
        -------
        Sequence[AliasMove]
            The newest first.

        Raises
        ------
        TagNotFound
            There has never been such an alias, or not at that time.
        InvalidTag
            `alias` cannot be an alias.

        Examples
        --------
        >>> moved = store.set_alias("bert@prod", "bert:v1", reason="accuracy 0.93")
        >>> [(move.action, move.version, move.reason) for move in store.alias_history("bert@prod")]
        [('set', 'v1', 'accuracy 0.93')]
        """
        return aliases_action.history(self._workspace, alias, at)

    def rollback_alias(
        self, alias: str, *, steps: int = 1, to: datetime | None = None, reason: str = "", force: bool = False
    ) -> Alias:
        """Have an alias mean again what it meant before. That is a move of its own, and is kept as such.

        Parameters
        ----------
        alias
            `name@alias`.
        steps
            How many moves to go back. What has been rolled back from does not count: rolled back twice, an alias is
            where it was two moves before, and not where it began.
        to
            Go to what it meant at this time instead. A time without a zone is local.
        reason
            Why, for whoever reads the history.
        force
            Move it even if it is protected; it stays protected.

        Returns
        -------
        Alias
            The alias as it stands now.

        Raises
        ------
        TagNotFound
            There is no such alias, it has not been moved so often, or the version that it meant has been deleted.
        AliasProtected
            It is protected.
        InvalidTag
            `alias` cannot be an alias, or `steps` is less than 1.
        InvalidMetadata
            `reason` is not text, or too long.
        StoreLocked
            Another process is at the aliases of this name for too long.
        """
        return aliases_action.roll_back(self._workspace, alias, steps, to, reason, force=force)

    def protect_alias(self, alias: str, *, reason: str = "") -> Alias:
        """Have an alias be moved or deleted only by force, until it is unprotected. Twice is as good as once.

        Parameters
        ----------
        alias
            `name@alias`.
        reason
            Why, for whoever reads the history.

        Returns
        -------
        Alias
            The alias.

        Raises
        ------
        TagNotFound
            There is no such alias.
        InvalidTag
            `alias` cannot be an alias.
        """
        return aliases_action.set_protected(self._workspace, alias, True, reason)

    def unprotect_alias(self, alias: str, *, reason: str = "") -> Alias:
        """Let an alias be moved and deleted again. Where it is not protected, nothing changes.

        Parameters
        ----------
        alias
            `name@alias`.
        reason
            Why, for whoever reads the history.

        Returns
        -------
        Alias
            The alias.

        Raises
        ------
        TagNotFound
            There is no such alias.
        InvalidTag
            `alias` cannot be an alias.
        """
        return aliases_action.set_protected(self._workspace, alias, False, reason)

    def delete_alias(self, alias: str, *, reason: str = "", force: bool = False) -> Tag:
        """Delete an alias; the version that it means stays, and so does the history.

        Parameters
        ----------
        alias
            `name@alias`.
        reason
            Why, for whoever reads the history.
        force
            Delete it even if it is protected.

        Returns
        -------
        Tag
            The version that it meant.

        Raises
        ------
        TagNotFound
            There is no such alias.
        AliasProtected
            It is protected.
        InvalidTag
            `alias` cannot be an alias.
        """
        return aliases_action.delete(self._workspace, alias, reason, force=force)

    def export(
        self,
        tag: str | Tag | Iterable[str | Tag],
        target: str | os.PathLike[str] | BinaryIO = "",
        *,
        format: str | None = None,
        default: str = "casmodel",
        aliases: bool = False,
        progress: Progress = SILENT,
    ) -> str:
        """Write a version to an archive, in one pass, and check each byte on its way.

        A file that stands at `target` is replaced when the new one is complete.

        Parameters
        ----------
        tag
            What `get` takes; several of them for the format casmodel and an OCI layout.
        target
            A file; a directory, in which the file is named after the version; a stream; `oci:DIR` or `oci:DIR:REF`,
            an OCI layout that takes several versions, each as a CNCF ModelPack; or, with `fsspec` installed, any URL
            that it knows.
        format
            bentomodel (BentoML's own, a tar in xz), tar, gz, xz, bz2, zst, zip, folder, or casmodel, which alone holds
            several versions and is smallest. By default what the name of `target` says.
        default
            The format where the name of `target` says nothing.
        aliases
            Put in what aliases mean these versions, too. Only a casmodel can hold that.
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
        rows = {row.id: row for row in (self._find(each) for each in tags)}
        chosen = None if format is None else formats.Format.parse(format)
        how = exporting.How(chosen, formats.Format.parse(default), aliases)
        return exporting.export(self._workspace, list(rows.values()), target, how, progress)

    def checkout(
        self,
        tag: str | Tag,
        directory: str | os.PathLike[str],
        *,
        only: str | Iterable[str] | None = None,
        link: bool = False,
        progress: Progress = SILENT,
    ) -> str:
        """Copy a version's files, and its `model.yaml`, or some of its files into a directory of the caller's own.

        The directory is there as a whole or not at all.

        Parameters
        ----------
        tag
            What `get` takes.
        directory
            A directory that is empty or not there yet, outside of any store.
        only
            Only these files, without `model.yaml`: paths, directories, or patterns as of a shell.
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
        FileNotFoundError
            What `only` says fits no file; the text names the nearest.
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
        row = self._find(tag)
        patterns = [only] if isinstance(only, str) else None if only is None else list(only)
        path = checkout_action.checkout(self._workspace, row, Path(directory), progress, link=link, only=patterns)
        return str(path)

    def import_archive(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        format: str | None = None,
        as_tag: str | Tag | None = None,
        trust: bool = False,
        materialize: bool = True,
        durability: str | None = None,
        aliases: bool = False,
        progress: Progress = SILENT,
    ) -> _Imports:
        """Save the version that an archive holds, or a directory with a `model.yaml`; of a `.casmodel`, all versions.

        A version keeps its tag, labels, metadata and creation time, and takes its place among the versions of its name
        by that time. A version that is saved already, exactly the same, is left as it is. Nothing is unpacked outside
        the store.

        Parameters
        ----------
        source
            A file, a directory, a stream, `oci:DIR` or `oci:DIR:REF` for an OCI layout that holds a model, or, with
            `fsspec` installed, a URL.
        format
            As in `export`. By default the content tells; a directory is named by the format folder.
        as_tag
            The tag to save it under, instead of its own.
        trust
            Believe the author of the archive: it may expand to more than 1 GiB and 100 times its size, and its
            `custom_objects` may be unpickled, which runs code.
        materialize
            Whether each version gets a directory now.
        durability
            As in `create`.
        aliases
            Also have aliases mean what they meant where the archive was made, if it says: those that are here move, but
            for protected ones, which the notes name.
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
        InvalidSignature
            The setting `require_signature` asks for a signature, and it has none that is valid.
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
        wishes = self._arriving(as_tag, trust, durability, materialize=materialize, aliases=aliases)
        chosen = None if format is None else formats.Format.parse(format)
        arrivals = importing.import_archive(self._workspace, source, chosen, wishes, progress)
        return [Imported(Model(self._workspace, each.row), each.is_new, each.notes) for each in arrivals]

    def _arriving(
        self, as_tag: str | Tag | None, trust: bool, durability: str | None, **how: bool
    ) -> arriving.Wishes:  # fmt: skip
        query = None if as_tag is None else TagQuery.parse(as_tag)
        given = trust_action.Trust.GIVEN if trust else trust_action.Trust.NONE
        return arriving.Wishes(
            None if query is None else resolve.completed(query), given, self._is_durable(durability),
            how.pop("materialize", True), **how,
        )  # fmt: skip

    def _save_written(self, directory: str | os.PathLike[str], tag: str, *, trust: bool) -> Imported:
        """Save what BentoML has just written, with its `model.yaml`: a save, of which no signature is asked."""
        wishes = self._arriving(tag, trust, None, is_our_own=True)
        chosen = formats.Format.FOLDER
        [arrival] = importing.import_archive(self._workspace, directory, chosen, wishes, SILENT)
        return Imported(Model(self._workspace, arrival.row), arrival.is_new, arrival.notes)

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
            Delete the versions whose directories were removed; otherwise they are only reported. They go to the trash,
            from where `undelete` brings them back.
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
        """Bring a version back that `sync_tree(prune=True)` has deleted: from the trash, as `undelete` does.

        Where the setting `trash_days` is 0 it is saved again, for `keep_days`; then only its pin is lost.

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
        empty_trash: bool = False,
        auto: bool = False,
        progress: Progress = SILENT,
    ) -> GcReport:
        """Take away what no version needs, and directories that are not in use. Others may save and read meanwhile.

        A version's directory goes unless the version is the newest of its name, pinned, what an alias means, leased (a
        living process has asked for its `path`), or was saved or opened in the last `keep_days` days, or unless the
        setting `materialize` is "all". The version stays, and its directory is made again when it is asked for.

        Parameters
        ----------
        dry_run
            Change nothing, and report what would be done.
        evict_all
            Take away every directory whose version is neither pinned, nor leased, nor what an alias means.
        rewrite
            Rewrite every pack that gets smaller by it. Otherwise a pack is rewritten once less than half of it is
            needed.
        empty_quarantine
            Also remove what was found damaged, and what stood in directories of deleted versions and was not theirs.
            Look through `quarantine/` first.
        empty_trash
            Take all deleted versions for good, also those whose `trash_days` have not passed.
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
        wishes = gc_report.GcOptions(evict_all, rewrite, empty_quarantine, empty_trash)
        return reserved.in_any_room(
            self._workspace, lambda: gc_action.collect(self._workspace, progress, dry_run=dry_run, wishes=wishes)
        )

    def verify(
        self,
        tags: str | Tag | Iterable[str | Tag] | None = None,
        *,
        quick: bool = False,
        keys: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
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
        keys
            Files with public keys in PEM: also check that every version, or each of `tags`, is signed by one of them.
            Their files are read for that, also if `quick`.
        progress
            Told how far the reading is.

        Returns
        -------
        VerifyReport
            What was read, what is damaged, and in `signatures` what is signed.

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
        InvalidSource
            One of `keys` cannot be used.

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
        public_keys = None
        if keys is not None:
            paths = [keys] if isinstance(keys, str | os.PathLike) else keys
            public_keys = model_signing.read_public_keys(Path(path) for path in paths)
        return verify_action.verify(self._workspace, progress, quick=quick, rows=rows, keys=public_keys)

    def sign(
        self,
        tag: str | Tag,
        key: str | os.PathLike[str],
        *,
        password: str | None = None,
        hash: str = "sha256",
        progress: Progress = SILENT,
    ) -> Signature:
        """Sign a version, in the format of OpenSSF model-signing, and keep the signature with it.

        A signature is of the files of a version, by their names and digests. It is kept beside the manifest, goes into
        archives and with a push to remotes, and is replaced by another one by the same key.

        Parameters
        ----------
        tag
            What `get` takes.
        key
            A file with a private key in PEM, on the curve P-256, P-384 or P-521.
        password
            What the key is encrypted with.
        hash
            The algorithm of the digests in it: "sha256", which `model_signing verify` reads and which is computed where
            it is not known yet, or "blake3", which takes no reading.
        progress
            Told how far the reading is.

        Returns
        -------
        Signature
            What is kept.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.
        InvalidSource
            The key cannot be used, the package cryptography is missing, or the version has 100 signatures already.
        IntegrityError
            Stored bytes are damaged.
        StoreUnwritable
            The store can only be read.
        """
        return signatures_action.sign(self._workspace, self._find(tag), Path(key), password, hash, progress)

    def signatures(self, tag: str | Tag) -> tuple[Signature, ...]:
        """List the signatures of a version, as they are kept: `verify` checks them.

        Parameters
        ----------
        tag
            What `get` takes.

        Returns
        -------
        tuple[Signature, ...]
            One for each key.

        Raises
        ------
        TagNotFound
            No version fits.
        AmbiguousTag
            Several versions begin like this.
        InvalidTag
            `tag` cannot be a tag.
        """
        return tuple(signatures_action.kept(self._workspace.layout, self._find(tag).digest))

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
        use the store meanwhile. Every version comes back with all that was saved with it, and aliases with their
        history; settings and pins do not.

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
        share what no other version has. How fast packed bytes are written and read depends on
        `casstore.kernels_in_use()`.

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
            return catalog.usage.of_versions(rows, held.kept_manifests(self._workspace))
        if name is None:
            return catalog.usage.of_store(held.kept_manifests(self._workspace))
        query = TagQuery.parse(name)
        if query.is_name:
            return catalog.usage.of_model(resolve.known_name(catalog, query.name))
        return catalog.usage.of_version(resolve.find(catalog, query), held.kept_manifests(self._workspace))

    def events(
        self, since: datetime | timedelta | None = None, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Event]:
        """List what has been done to the store, by whom and when: versions saved, deleted, annotated, pushed; gc.

        Aliases that moved, policies that were set and what came back from the trash are among them too; a gc or a
        repair that found nothing to do is not.

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
        InvalidSource
            The keys of `require_signature` cannot be read.

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
        return remoting.Remote._of(self._workspace, remotes_file.read(self._workspace).address(name))

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
        address = addresses.RemoteAddress(url, endpoint, region, anonymous, profile, credential_process).checked()
        remotes_file.check_new(self._workspace, name)
        with remoting.Remote._of(self._workspace, address) as remote:
            remote._ensure(single_writer=single_writer, make=make)
        remotes_file.add(self._workspace, name, address)
        return self.remote(name)

    def remove_remote(self, name: str, *, force: bool = False) -> Sequence[str]:
        """Forget a remote, and what is known of it; what stands there stays as it is.

        Where another remote of the store stands at the same place, it takes over versions that only this one has.

        Parameters
        ----------
        name
            What it is called.
        force
            Also where versions are only there: see `evict`. Their names stay, and they can be had again once a remote
            that has them is added under this name.

        Returns
        -------
        Sequence[str]
            The tags of these versions; there are none without `force`.

        Raises
        ------
        NoRemote
            There is none of that name.
        StoreError
            Versions are only there.
        """
        return [str(tag) for tag in remotes_file.remove(self._workspace, name, force=force)]

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

        What is being saved in the background is waited for. No other thread may be using the store.

        Raises
        ------
        CasstoreError, OSError
            Something could not be saved in the background, and its future was not asked: the first such error. The
            store is closed.
        """
        unheard = self._close()
        if unheard is not None:
            raise unheard

    def _close(self) -> BaseException | None:
        """Close, and return an error of a save in the background that no caller has asked for."""
        if "_workspace" not in self.__dict__:
            return None
        errors = [end(self._workspace) for end in self._workspace.before_close]
        self._workspace.close()
        return next((error for error in errors if error is not None), None)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:  # which is the one to be told; the other was logged
            self._close()

    def __repr__(self) -> str:
        return f"Store({str(self.home)!r})"

    def _repr_html_(self) -> str:
        counts = self._workspace.catalog.versions.counts()
        rows = list(counts.items())
        return f"{paragraph(repr(self))}{table(('model', 'versions'), rows[:MOST_ROWS], len(rows))}"


def _copy(field: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(mapping(field, value))
