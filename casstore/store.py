"""The store, as callers see it: delegates, decides nothing."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from casstore.actions import configure, resolve
from casstore.actions import sharing as sharing_action
from casstore.actions.consistency import lost
from casstore.actions.consistency.held import kept_manifests
from casstore.actions.directories import materialize as materialize_action
from casstore.actions.directories import pinning
from casstore.actions.exchange import adopt as adopt_action
from casstore.actions.exchange import backup as backup_action
from casstore.actions.exchange import checkout as checkout_action
from casstore.actions.exchange import exporting, importing
from casstore.actions.exchange import pruned as pruned_action
from casstore.actions.exchange import sync_tree as sync_action
from casstore.actions.exchange.adopt import AdoptReport
from casstore.actions.exchange.arrivals import Wishes as ImportWishes
from casstore.actions.exchange.backup import BackupReport
from casstore.actions.exchange.sync_tree import SyncReport
from casstore.actions.gc import collect as gc_action
from casstore.actions.gc.collect import GcReport
from casstore.actions.health import rebuild as rebuild_action
from casstore.actions.health import repair as repair_action
from casstore.actions.health import verify as verify_action
from casstore.actions.health.rebuild import RebuildReport
from casstore.actions.health.repair import RepairReport
from casstore.actions.health.verify import VerifyReport
from casstore.actions.home import layout_of, open_workspace
from casstore.actions.reopening import Address
from casstore.actions.reserved import in_any_room
from casstore.actions.saving import delete as delete_action
from casstore.actions.saving import drafts as drafts_action
from casstore.actions.saving.drafts import KeptDraft
from casstore.actions.saving.trust import Trust
from casstore.actions.sharing import InitReport
from casstore.actions.workspace import Workspace
from casstore.archive.formats import Format
from casstore.catalog.usage import Usage
from casstore.description import Description
from casstore.draft import Draft, Wishes
from casstore.errors import InvalidTag
from casstore.model import Imported, Model, Models
from casstore.notebook import MOST_ROWS, table
from casstore.plain_json import mapping, plain_labels
from casstore.progress import SILENT, Progress
from casstore.settings import check_setting
from casstore.tag import Tag, TagQuery

# A name outside the class, whose own `list` hides the type.
_Imports = list[Imported]


_log = logging.getLogger("casstore")


class Store:
    """A store of models at `home` (default: `$CASSTORE_HOME`, else `~/.casstore`), made if it is not there.

    A context manager; `close` may also be called. Threads may share it, and a forked child may go on using it. It may
    be pickled, and copied, with what a subclass has put on it: the store is opened again where that is first used.
    `auto_gc=False`: saves through it never start a gc in a process of its own, as they do when much could be given
    back and the setting `auto_gc` is on. `create=False`: where no store stands, none is made, and StoreNotFound says
    so. Raises StoreUnwritable, StoreTooNew, SQLiteTooOld, StoreError.
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
        return Path(self._address.home)

    @staticmethod
    def default_home() -> Path:
        """The home of a store that is opened without one, now: `$CASSTORE_HOME`, else `~/.casstore`."""
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
        """A new version to be written: `with store.create("bert") as draft:` put files into `draft.path`.

        The version is saved when the block ends, and not at all when it raises. A tag without a version gets a
        generated one; `casstore.slug` makes a tag of any text. `base` says which version this one came from (default:
        the newest of the same name): what changed since is stored as the difference from it.
        Where the saving fails, and with `keep_on_error` where the block does, the files are kept for `keep_days`: the
        error says where (`error.draft_path`), `drafts` lists them, `save_draft` saves them after all.
        `exist_ok`: where that tag is saved already with the same files, labels, metadata and all else that is said,
        nothing is saved and all is well, as when a training is resumed; where it differs that is TagExists at the end.
        `durability`: "full" (survives a power cut once saved) or "relaxed"; default as set in the store.
        `materialize=False` for a version that will not be opened soon, such as each checkpoint of a run: it is encoded
        at once, as `gc` would later, and has no directory until `Model.path` asks for one.
        Raises InvalidTag, TagExists, TagNotFound (of the base), InvalidMetadata; at the end of the block also
        InvalidSource, FileChanged, StoreLocked, OSError.
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
        """The drafts that could not be saved and are kept, oldest first; gc removes them after `keep_days`."""
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
        """Save a draft that is kept, given its id or the beginning of it, and keep it no longer.

        It is saved with what it was to be saved with, as far as that could be kept, and with these labels and metadata
        on top; as `tag`, by default that of the draft. On any error it stays kept.
        Raises TagNotFound, TagExists, InvalidTag, StoreLocked where another process is at it, and what `create` raises.
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
        """Remove a draft that is kept, for good; returns what it was. Raises TagNotFound, StoreLocked, OSError."""
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
        """Save a directory, or a single file, that exists already; takes what `create` takes, labels and so on.

        The files stay as they are; with `move` they are taken over where possible, not copied, and are gone from
        `path` afterwards. `from_hf`: `path` is a snapshot in the cache of huggingface_hub; its repository and revision
        are recorded as `metadata["huggingface"]`.
        Left out of a directory are `.git`, `__pycache__` and `.cache/huggingface`, what the patterns in its
        `.casstoreignore` match (as in a .gitignore; `!pattern` takes in again), unless `ignore=False`, and what those
        in `exclude` match. The logger `casstore` names it, and what `move` had to leave.
        Raises as `create` does, and InvalidSource for a directory without files unless `allow_empty`.
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

    def get(self, tag: str | Tag, *, check: bool = True) -> Model:
        """The version of that tag: exact, a name alone or `name:latest` for the newest, or a unique prefix.

        An exact match wins over prefixes. What is found changed in its directory goes to quarantine, is named in the
        log, and is mended; without `check` nobody looks. Raises TagNotFound, AmbiguousTag, InvalidTag, and
        IntegrityError when its directory has been altered and cannot be mended.
        """
        row = resolve.find(self._workspace.catalog, TagQuery.parse(tag))
        if check:
            materialize_action.mend(self._workspace, row, SILENT)
        return Model(self._workspace, row)

    def exists(self, tag: str | Tag) -> bool:
        """Whether that very version is saved; for a name alone, or `name:latest`, whether any version of it is.

        Unlike `get` it takes no beginning of a version for the version. Also written `tag in store`, which is false
        for what cannot be a tag. Raises InvalidTag.
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
        """All versions, or those of one name, by name and newest first; with `labels`, those that have them all.

        Raises InvalidTag, InvalidMetadata. A name without versions gives an empty list.
        """
        checked = None if name is None else resolve.name(name)
        wanted = plain_labels(labels)
        rows = self._workspace.catalog.versions.select(checked, wanted)
        return Models(Model(self._workspace, row) for row in rows)

    def damaged_tags(self) -> Sequence[str]:
        """The tags of versions that need bytes which are gone or have been written over, as far as stat tells.

        It reads only files that were written to since they were stored; `verify` reads all, and says what of it can
        still be read from a copy. Raises OSError.
        """
        return sorted(map(str, lost.damaged_tags(self._workspace)))

    def exact(self, tag: str | Tag) -> Model:
        """The version of exactly that tag, as `delete` takes it, without a look at its directory.

        Raises TagNotFound, and InvalidTag for what may mean another version tomorrow: a name alone, or `latest`.
        """
        exact = resolve.exact(self._workspace.catalog, tag)
        return Model(self._workspace, resolve.find(self._workspace.catalog, TagQuery.parse(exact)))

    def tags(self) -> Sequence[str]:
        """Every tag as text, newest first."""
        return self._workspace.catalog.versions.tags()

    def delete(self, tag: str | Tag) -> Sequence[str]:
        """Delete exactly that version: its directory goes at once, its bytes at the next `gc`.

        What somebody has put into that directory, or changed there, is not the version's: it goes to `quarantine/`,
        and these paths are returned. Raises TagNotFound and InvalidTag; a prefix or `latest` is not enough here.
        """
        exact = resolve.exact(self._workspace.catalog, tag)
        return in_any_room(self._workspace, lambda: delete_action.delete(self._workspace, exact))

    def pin(self, tag: str | Tag) -> Model:
        """Keep gc from ever taking that version's directory away; returns it. What is pinned already stays so.

        The tag may be all that `get` takes. A pin does not keep the version from being deleted, and makes no
        directory. Raises TagNotFound, AmbiguousTag, InvalidTag.
        """
        return self._set_pinned(tag, True)

    def unpin(self, tag: str | Tag) -> Model:
        """Take the pin away, if there is one; otherwise as `pin`."""
        return self._set_pinned(tag, False)

    def _set_pinned(self, tag: str | Tag, pinned: bool) -> Model:
        row = resolve.find(self._workspace.catalog, TagQuery.parse(tag))
        pinning.set_pinned(self._workspace, row, pinned)
        return Model(self._workspace, row)

    def export(
        self,
        tag: str | Tag | Iterable[str | Tag],
        target: str | os.PathLike[str] | BinaryIO = "",
        *,
        format: str | None = None,
        default: str = "casmodel",
        progress: Progress = SILENT,
    ) -> str:
        """Write a version to an archive, in one pass, each byte checked on its way; returns where it is.

        `target` is a file, a directory (the file in it is named after the version), a stream, or with `fsspec`
        installed any URL that it knows. `format`: bentomodel (tar in xz, BentoML's own), tar, gz, xz, bz2, zst, zip,
        folder, or casmodel, which alone holds several versions and takes least; by default what the name says, and
        where that says nothing, `default`.
        An existing file is replaced when the new one is complete.
        Raises TagNotFound, AmbiguousTag, InvalidTag, InvalidSource, IntegrityError, OSError.
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
        """Copy a version's files, and its `model.yaml`, into a directory of the caller's own; returns its path.

        It is new or empty, and is there as a whole or not at all. Its files may be written to: they share blocks with
        the store where the file system can, and no file. `link`: they are read-only hardlinks of the store's instead,
        on its file system. Raises TagNotFound, AmbiguousTag, InvalidTag, FileExistsError where something is in
        `directory`, InvalidSource where it is inside a store or no link can be had, IntegrityError, OSError.
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
        """Save the version, of a `.casmodel` all versions, that an archive or a directory with a `model.yaml` holds.

        They keep tag, labels, metadata and creation time, by which they take their place among the versions of their
        name. A version that is saved already, the very same, is left as it is, and reported. `source` and `format`
        are as in `export`; the content tells the format of an archive. `as_tag`: save it under that tag.
        `trust`: whoever made the archive is believed, so it may expand to more than 100 times its size, and its
        `custom_objects` may be unpickled without further ado. An archive is never unpacked outside the store.
        Raises UnsafeArchive, InvalidSource, IntegrityError, TagExists where another version has the tag, OSError.
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

        With all that their `model.yaml` says, and their creation times. `move`: the files are taken over where they
        can be, not copied, and are gone from there. To adopt the tree of the store itself, as when it stands in a
        BentoML home, give its home: there files are always taken over, and every version keeps its directory from
        then on. May be run again, also after it was cut short. Raises InvalidSource, StoreError, OSError.
        """
        return adopt_action.adopt(
            self._workspace, Path(directory), move=move, durable=self._is_durable(durability), progress=progress
        )

    def sync_tree(
        self, *, prune: bool = False, dry_run: bool = False, durability: str | None = None, progress: Progress = SILENT
    ) -> SyncReport:
        """Take up what other tools, such as BentoML, have done to `models/` behind the store's back.

        Versions that they saved there are adopted. Those whose directories they removed are deleted with `prune`, and
        reported without. Where the setting `materialize` is "all", every version without a directory is given one.
        With `dry_run` only says so. What `prune` deletes can be brought back with `restore_pruned` for `keep_days`.
        Raises StoreError, OSError.
        """
        return sync_action.sync_tree(
            self._workspace, prune=prune, dry_run=dry_run, durable=self._is_durable(durability), progress=progress
        )

    def restore_pruned(self, tag: str | Tag, *, durability: str | None = None) -> Model:
        """Save a version again that `sync_tree(prune=True)` has deleted in the last `keep_days`; returns it.

        It is what it was, but for a pin. Raises TagNotFound for one that is not kept, TagExists where another version
        has the tag, IntegrityError where bytes of it are lost, InvalidTag, OSError.
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
        """Take away what no version needs, and directories that nobody uses; with `dry_run` only say what that is.

        A version's directory goes unless it is the newest of its name, pinned, leased (a living process has asked
        for its `path`), or was saved or opened in the last `keep_days` days, or `materialize` is set to "all";
        with `evict_all` unless it is pinned or leased. The version stays, and makes its directory anew when asked.
        A pack is rewritten once less than half of it is needed; with `rewrite`, each that gets smaller by it.
        With `empty_quarantine` what was found damaged goes as well, and what stood in deleted versions' directories
        and was not theirs: look through quarantine/ first.
        With `auto`, as saves start it: nothing happens, and the report has no steps, where automatic gc is switched
        off, another gc runs, or too little could be given back.

        Safe while others save and read. Raises StoreLocked while another gc runs.
        """
        if auto:
            return gc_action.collect_if_due(self._workspace, progress)
        wishes = gc_action.Wishes(evict_all, rewrite, empty_quarantine)
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
        """Read everything, compare it with its digests and the catalog with the manifests; report what is damaged.

        With `tags`, each all that `get` takes, only what these versions need: their chunks wherever they stand, their
        copies, directories, manifests and rows. Raises TagNotFound, AmbiguousTag, InvalidTag.
        With `quick` no file's content is read but the manifests': what has gone, was cut short or was written to is
        found, a flipped bit is not. Raises CatalogDamaged when the catalog itself is damaged.
        """
        rows = None
        if tags is not None:
            wanted = [tags] if isinstance(tags, str | Tag) else tags
            found = (resolve.find(self._workspace.catalog, TagQuery.parse(tag)) for tag in wanted)
            rows = list({row.id: row for row in found}.values())
        return verify_action.verify(self._workspace, progress, quick=quick, rows=rows)

    def repair(self, sources: Iterable[str | os.PathLike[str]] = (), *, progress: Progress = SILENT) -> RepairReport:
        """Read everything, and heal what is damaged from other copies in the store or anywhere below `sources`.

        `sources` may hold the files themselves, under whatever names, or another store. Damaged files go to
        `quarantine/`. No version is dropped: what nobody has stays listed, raises IntegrityError when it is read, and
        is healed by saving its content again, or by `repair` with a source that has it.
        Raises StoreLocked while gc runs, CatalogDamaged, InvalidSource for a source that is not there.
        """
        return repair_action.repair(self._workspace, [Path(source) for source in sources], progress)

    @staticmethod
    def init(
        home: str | os.PathLike[str] | None = None, *, shared: str | None = None, group: str | None = None
    ) -> InitReport:
        """Make a store at `home`, unless one stands there, and share it with others if that is wanted.

        `shared`: "group", so that every member of the home's group, or of `group`, may save, read and delete, whatever
        their umask; "all", so that moreover everybody may read; None changes nothing about who may. What stands there
        already is opened to them too. Only the store's owner can share it, or root.
        Raises InvalidSetting, StoreUnwritable, StoreError.
        """
        return sharing_action.init(layout_of(home), shared, group)

    @staticmethod
    def rebuild_catalog(home: str | os.PathLike[str] | None = None, *, progress: Progress = SILENT) -> RebuildReport:
        """Make the catalog of the store at `home` anew from its packs, loose files and manifests.

        For a catalog that is damaged, gone, or older than the store; it goes to `quarantine/`. Nobody may use the
        store meanwhile. Every version comes back with all that was saved with it; settings and pins do not.
        Raises StoreLocked, StoreError where no store stands, OSError.
        """
        return rebuild_action.rebuild_catalog(layout_of(home), progress)

    def backup(
        self, directory: str | os.PathLike[str], *, copy: bool = False, progress: Progress = SILENT
    ) -> BackupReport:
        """Make `directory` a copy of the whole store as it is now, or bring an earlier backup there up to date.

        Others may save, read, delete and collect meanwhile. Only what is new travels; what the store no longer has
        goes from the backup too. On one file system files share their bytes with the store's, as reflinks or else as
        hardlinks, unless `copy` is set. The backup is a store itself, without models/: open it, or copy it elsewhere.
        It is complete once this has returned; cut short, it is what it was before, and the next run goes on.
        Raises StoreError where the directory holds anything else, or versions that this store has not and has not
        deleted; StoreLocked while it is in use; CatalogDamaged, OSError.
        """
        return backup_action.backup(self._workspace, Path(os.path.expanduser(directory)), progress, copy=copy)

    def stats(self, name: str | Tag | Collection[str | Tag] | None = None) -> Usage:
        """Bytes of the store; of one model's versions, given its name; of one version, given its tag; of several
        together, given their tags.

        For versions also what deleting them would free: together more than one by one, where they share what no other
        version has. Raises TagNotFound, AmbiguousTag, InvalidTag.
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

    def names(self) -> Sequence[str]:
        """The names of all models."""
        return self._workspace.catalog.versions.names()

    def settings(self) -> dict[str, str]:
        """Every setting with its value; `casstore.SETTINGS` says what they mean."""
        return self._workspace.catalog.settings()

    def set_setting(self, key: str, value: str | None) -> None:
        """Change a setting for all who use the store; None takes it back to its default. Raises InvalidSetting, also
        for a `link_mode` that the store's file system does not have.
        """
        configure.set_setting(self._workspace, key, value)

    def close(self) -> None:
        """Close files and catalog connections of all threads, and let gc have the directories that were handed out.

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
