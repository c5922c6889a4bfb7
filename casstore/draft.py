"""A version being written."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from casstore.actions.describing import custom_objects as pickling
from casstore.actions.describing.checked import Checked
from casstore.actions.gc import autogc
from casstore.actions.registry import policies
from casstore.actions.saving import drafts, unsaved
from casstore.actions.saving.request import Handling, SaveRequest
from casstore.actions.saving.save import save
from casstore.actions.saving.trust import Trust
from casstore.actions.saving.unchanged import displaced
from casstore.actions.sources import hugging_face
from casstore.actions.sources.ignoring import Rules
from casstore.actions.workspace import Workspace
from casstore.description import FIELDS, Description
from casstore.errors import CasstoreError, InvalidMetadata, TagExists, TagNotFound
from casstore.late_classes import dataclass
from casstore.model import Model
from casstore.plain_json import label, mapping, plain_mapping
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.manifest import Base
from casstore.storage.parents import Parent
from casstore.storage.sessions import Session, session_of
from casstore.storage.uncopied import Uncopied
from casstore.tag import Tag


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a draft is to be saved, as `Store.create` takes it. `base`: the version it comes from, `is_base_said`: the
    caller has named it; `durability`: None where the store's setting holds; `parents`: None where none were said."""

    base: Base | None
    is_base_said: bool
    custom_objects: dict[str, Any]
    durability: str | None
    materialize: bool
    keep_on_error: bool = False
    exist_ok: bool = False
    parents: tuple[Parent, ...] | None = None


class Draft(Uncopied):
    """A version being written, from `Store.create`: put files into `path`, and leave the `with` block.

    Leaving the block normally saves the version, which `model` then is. The draft is kept when saving fails, and when
    the block ends because labels or metadata were given what cannot be recorded; the error says where
    (`error.draft_path`). Any other exception in the block, KeyboardInterrupt too, removes the draft, unless
    `keep_on_error` was asked for. In a forked child, leaving the block does nothing, since the draft is the parent's.

    Attributes
    ----------
    tag
        What it will be saved as.
    module, api_version, signatures, options, context, custom_objects
        As given to `create`; they may still be changed.
    """

    def __init__(
        self,
        workspace: Workspace,
        tag: Tag,
        said: Description,
        wishes: Wishes,
        progress: Progress,
    ) -> None:
        said.check_early()
        _pickled(wishes.custom_objects)
        self.tag = tag
        # Weakly: a traceback holds on to whatever the training had in memory.
        self._slips: weakref.WeakSet[BaseException] = weakref.WeakSet()
        self.labels = dict(said.labels)
        self.metadata = dict(said.metadata)
        self.module = said.module
        self.api_version = said.api_version
        self.signatures = dict(said.signatures)
        self.options = said.options
        self.context = said.context
        self.custom_objects = wishes.custom_objects
        self._workspace = workspace
        self._wishes = wishes
        self._progress = progress
        self._is_new = True
        self._pickled_objects: bytes | None = None
        self._session: Session | None = None
        self._moving: unsaved.Moving | None = None
        self._directory: Path | None = None
        self._source: tuple[Path, Handling, bool] | None = None
        self._model: Model | None = None
        self._is_gone = False
        self._rules: Rules | None = None
        self._new_bytes = 0
        self._left_behind: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, Any]:
        """Text to text. Numbers and booleans that are put into it become text.

        Raises
        ------
        InvalidMetadata
            What is put in cannot be a label. The draft is kept if the block ends with this error.
        """
        return self._labels

    @labels.setter
    def labels(self, labels: Any) -> None:
        self._labels = self._checked("labels", labels, label)

    @property
    def metadata(self) -> dict[str, Any]:
        """Text to what JSON can hold, and to NaN, infinities, and what becomes text or a list, such as paths.

        Raises
        ------
        InvalidMetadata
            What is put in cannot be recorded. The draft is kept if the block ends with this error.
        """
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Any) -> None:
        self._metadata = self._checked("metadata", metadata, _checked_entry)

    def _checked(self, field: str, values: Any, check: Callable[[Any, Any], Any]) -> Checked:
        def checked(key: Any, value: Any) -> Any:
            try:
                return check(key, value)
            except InvalidMetadata as error:
                self._slips.add(error)
                raise
            except Exception as error:  # values may raise anything when they are looked at
                slip = InvalidMetadata(f"{field}: {key!r} cannot be read: {type(error).__name__}: {error}")
                self._slips.add(slip)
                raise slip from error

        try:
            given = mapping(field, values)
        except InvalidMetadata as error:
            self._slips.add(error)
            raise
        return Checked(checked, given)

    @property
    def path(self) -> str:
        """The directory to write files into. It is on the store's file system, so that saving the files copies nothing.

        Raises
        ------
        CasstoreError
            The block has not begun, or has ended.
        """
        if self._directory is None:
            raise CasstoreError("a draft has a directory only inside its with block: with store.create(...) as draft:")
        return str(self._directory)

    @property
    def model(self) -> Model:
        """The saved version, once the block has ended.

        Raises
        ------
        CasstoreError
            The version is not saved.
        TagNotFound
            It was, and another process has deleted it already.
        """
        if self._is_gone:
            raise TagNotFound(f"{self.tag} was saved, and has been deleted meanwhile")
        if self._model is None:
            raise CasstoreError(f"{self.tag} is not saved yet; it is when the with block has ended")
        return self._model

    @property
    def is_new(self) -> bool:
        """False when exactly this version was saved already, which only `exist_ok` allows."""
        return self._is_new

    @property
    def new_bytes(self) -> int:
        """Once it is saved, how many of its bytes were new to the store, before they were compressed."""
        return self._new_bytes

    @property
    def left_out(self) -> tuple[str, ...]:
        """After `Store.save`, what a `.casstoreignore` and the other patterns have left out of the version."""
        return () if self._rules is None else tuple(self._rules.left_out)

    @property
    def left_behind(self) -> tuple[str, ...]:
        """After `Store.save` with `move`, the files that are still there: replaced meanwhile, or kept by the system."""
        return self._left_behind

    def take_from(
        self,
        path: Path,
        *,
        move: bool,
        allow_empty: bool,
        from_hf: bool = False,
        exclude: str | Iterable[str] = (),
        ignore: bool = True,
    ) -> None:
        """Save the files at `path` instead of those in the draft's directory; for `Store.save`.

        Parameters
        ----------
        path, move, allow_empty, from_hf, exclude, ignore
            As in `Store.save`.

        Raises
        ------
        InvalidSource
            `from_hf` is set, and `path` is not a snapshot of huggingface_hub.
        """
        self._rules = Rules.of(exclude, ignore)
        if from_hf:
            self.metadata["huggingface"] = hugging_face.origin(path)
        self._source = (path, Handling.TAKE if move else Handling.COPY, allow_empty)

    def take_kept(
        self, objects: bytes | None, *, is_base_said: bool, parents: tuple[Parent, ...] | None = None
    ) -> None:
        """Save Python objects that are pickled already, and say where the base came from; for `Store.save_draft`.

        Parameters
        ----------
        objects
            The pickle, or None where there are no objects.
        is_base_said
            Whether the caller named the base, which `exist_ok` then compares.
        parents
            What it came from; None where nothing was said.
        """
        self._pickled_objects = objects
        self._wishes = replace(self._wishes, is_base_said=is_base_said, parents=parents)

    def __enter__(self) -> Draft:
        if self._session is not None or self._model is not None:
            raise CasstoreError("a draft can be entered once; create another for another version")
        try:
            self._session = self._workspace.session()
            self._directory = self._session.new_path()
            files.make_directory(self._directory)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = self._session
        if session is None:
            return
        try:
            if session.is_inherited:
                return
            self._end(session, error)
        finally:
            # What cannot be removed, as where a process goes on writing into it, is left to gc: it is no reason to fail
            # once the version is saved, and not the one why it was not.
            if unsaved.stays(session):
                self._session = self._directory = None
            with contextlib.suppress(OSError):
                if self._moving is None:
                    self._close()
                else:  # an interrupt would get out in place of the error that says where the draft is
                    unsaved.persisting(self._close)
        if self._model is not None:
            if self._is_new:
                policies.apply_after_save(self._workspace, self.tag)
            # The version is saved, whatever becomes of this.
            with contextlib.suppress(CasstoreError, OSError):
                autogc.start_if_due(self._workspace)

    def _end(self, session: Session, error: BaseException | None) -> None:
        """Save the version, or keep what the block has written. Whatever is raised then says where that is."""
        try:
            self._save_or_keep(session, error)
        except KeyboardInterrupt as interrupt:  # perhaps one of several at once, that came between two attempts
            reason = interrupt
            unsaved.persisting(lambda: self._keep(session, reason))
            raise

    def _save_or_keep(self, session: Session, error: BaseException | None) -> None:
        try:
            if error is None:
                self._commit(session)
            elif self._wishes.keep_on_error or self._is_slip(error):
                unsaved.persisting(lambda: self._keep(session, error))
        except BaseException as failure:
            reason = failure
            unsaved.persisting(lambda: self._keep(session, reason))
            raise

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = self._directory = None

    def _is_slip(self, error: BaseException) -> bool:
        """Whether the block has ended in what this draft said of its labels or metadata, perhaps in other words."""
        chain: list[BaseException] = []
        while error not in chain:  # causes may go round in a circle
            if any(error is slip for slip in self._slips):
                return True
            chain.append(error)
            if (before := error.__cause__ or error.__context__) is None:
                break
            error = before
        return False

    def _keep(self, session: Session, error: BaseException) -> None:
        """Keep what the block has written, and have the error say so; all of it again where that was interrupted."""
        if self._moving is None:
            if self._source is not None or self._is_saved(session):
                return
            content = unsaved.content(Path(self.path))
            if content is unsaved.Content.NOTHING:
                return
            record, objects = unsaved.persisting(lambda: self._record(error))
            self._moving = unsaved.moving_of(
                self._workspace, session, Path(self.path), record, objects,
                has_files=content is unsaved.Content.FILES,
            )  # fmt: skip
        save_as = self.tag.name if isinstance(error, TagExists) else str(self.tag)
        kept = unsaved.keep(self._workspace, session, self._moving, save_as=save_as)
        if kept is not None:
            unsaved.tell(error, kept)

    def _record(self, error: BaseException) -> tuple[drafts.Record, bytes | None]:
        """What of this draft's description can be kept beside it, and its Python objects."""
        description, faults = self._said().salvaged()
        objects = None
        try:
            objects = self._pickled_objects or _pickled(self.custom_objects)
        except InvalidMetadata as fault:
            faults.append(str(fault))
        if isinstance(error, InvalidMetadata) and str(error) not in faults:
            faults.insert(0, str(error))
        record = drafts.Record(
            tag=str(self.tag), reason=f"{type(error).__name__}: {error}", left_out=faults, description=description,
            base="" if self._wishes.base is None else str(self._wishes.base.tag),
            materialize=self._wishes.materialize, durability=self._wishes.durability or "",
            parents=None if self._wishes.parents is None else drafts.listed(self._wishes.parents),
        )  # fmt: skip
        return record, objects

    def _said(self) -> Description:
        """What is said of the version by now, unchecked."""
        return Description(**{name: getattr(self, name) for name in FIELDS})

    def _is_saved(self, session: Session) -> bool:
        """Whether the version has been committed after all, as where Ctrl-C came just after that."""
        with contextlib.suppress(CasstoreError, OSError):
            row = self._workspace.catalog.versions.find(self.tag)
            return row is not None and session_of(row.manifest_id) == session.id
        return False

    def _commit(self, session: Session) -> None:
        draft = Path(self.path)
        if draft.is_symlink():
            raise displaced(self.path)
        source, handling, allow_empty = self._source or (draft, Handling.DRAFT, True)
        wishes = self._wishes
        durability = wishes.durability or self._workspace.catalog.setting("durability")
        description = self._said().checked()
        custom_objects = self._pickled_objects or _pickled(self.custom_objects)
        request = SaveRequest(
            self.tag, source, handling, description, wishes.base, durability == "full", wishes.materialize,
            rules=self._rules, allow_empty=allow_empty, custom_objects=custom_objects,
            trust=Trust.AS_KNOWN if custom_objects is None else Trust.MADE_NOW,
            said_context=plain_mapping("context", self.context) if wishes.exist_ok else None,
            is_base_said=wishes.is_base_said, parents=wishes.parents,
        )  # fmt: skip
        self._new_bytes, self._left_behind = save(self._workspace, session, draft, request, self._progress)
        row = self._workspace.catalog.versions.find(self.tag)
        if row is None:
            self._is_gone = True  # another process has deleted it already
        else:
            self._model = Model(self._workspace, row)
            self._is_new = session_of(row.manifest_id) == session.id


def _checked_entry(key: Any, value: Any) -> Any:
    """An entry of the metadata as it was given, since more may be put into it, as into a history."""
    plain_mapping("metadata", {key: value}, may_be_nan=True)
    return value


def _pickled(custom_objects: Mapping[str, Any]) -> bytes | None:
    return pickling.pickled(custom_objects) if custom_objects else None
