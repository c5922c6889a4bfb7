"""A version being written."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from casstore.actions import keeping, resolve
from casstore.actions.describing import custom_objects as pickling
from casstore.actions.describing.checked import Checked
from casstore.actions.gc import autogc
from casstore.actions.registry import policies
from casstore.actions.saving import adding, aside, background, drafts, unsaved
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

if TYPE_CHECKING:
    from concurrent.futures import Future

_log = logging.getLogger("casstore")
_HANDED_OVER, _SAVED = "handed over to be saved in the background", "saved"
_DISCARDED, _NOT_SAVED = "discarded", "not saved"
_SAID = {"tag", "custom_objects", *FIELDS}
# Drafts outside of `with` blocks: those that are not over, and those of them that nothing refers to any more. Their
# sessions are held here: among garbage they would let go of their locks, and gc of the drafts, before those are kept.
_open: weakref.WeakSet[Draft] = weakref.WeakSet()
_abandoned: deque[Draft] = deque()
_sessions: set[Session] = set()
_noted_for: set[int] = set()  # processes


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a draft is to be saved, as `Store.create` takes it. `base`: the version it comes from, `is_base_said`: the
    caller has named it; `durability`: None where the store's setting holds; `parents`: None where none were said;
    `background`: the end of the block is not to wait for it."""

    base: Base | None
    is_base_said: bool
    custom_objects: dict[str, Any]
    durability: str | None
    materialize: bool
    keep_on_error: bool = False
    exist_ok: bool = False
    parents: tuple[Parent, ...] | None = None
    background: bool = False


class Draft(Uncopied):
    """A version being written, from `Store.create`: put files into `path`, and leave the `with` block.

    Leaving the block normally saves the version, which `model` then is. The draft is kept when saving fails, and when
    the block ends because labels or metadata were given what cannot be recorded; the error says where
    (`error.draft_path`). Any other exception in the block, KeyboardInterrupt too, removes the draft, unless
    `keep_on_error` was asked for. In a forked child, leaving the block does nothing, since the draft is the parent's.

    Without a block, `commit` or `commit_async` saves the version, and `discard` removes the draft. One of which the
    program has done neither when it lets go of it, or ends, is kept, and the logger `casstore` says where.

    Attributes
    ----------
    tag
        What it will be saved as.
    module, api_version, signatures, options, context, custom_objects
        As given to `create`; they may still be changed until the draft is saved, or handed over to be.
    """

    def __init__(
        self,
        workspace: Workspace,
        tag: Tag,
        said: Description,
        wishes: Wishes,
        progress: Progress,
    ) -> None:
        keep_abandoned()
        said.check_early()
        _pickled(wishes.custom_objects)
        self._ended = ""  # what has become of the draft, once it has no directory any more
        self.tag = tag
        # Weakly: a traceback holds on to whatever the training had in memory.
        self._slips: weakref.WeakSet[BaseException] = weakref.WeakSet()
        self.labels = dict(said.labels)
        self.metadata = dict(said.metadata)
        self.module = said.module
        self.api_version = said.api_version
        self.signatures: dict[str, Any] = Checked(lambda _, value: value, self._check_open, said.signatures)
        self.options = said.options
        self.context = said.context
        self.custom_objects = wishes.custom_objects
        self._workspace = workspace
        self._wishes = wishes
        self._progress = progress
        self._is_new = True
        self._is_entered = False
        self._future: Future[Model] | None = None
        self._kept_id = ""  # of the kept draft that is saved by this one
        self._pickled_objects: bytes | None = None
        self._kept_at_ns: int | None = None
        self._session: Session | None = None
        self._moving: unsaved.Moving | None = None
        self._directory: Path | None = None
        self._source: tuple[Path, Handling, bool] | None = None
        self._model: Model | None = None
        self._is_gone = False
        self._rules: Rules | None = None
        self._new_bytes = 0
        self._left_behind: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SAID:
            self._check_open()
        super().__setattr__(name, value)

    def _check_open(self) -> None:
        """Raise CasstoreError where what is said now would not be saved."""
        if self.__dict__.get("_ended") in (_HANDED_OVER, _SAVED):
            raise CasstoreError(
                f"the draft of {self.tag} was {self._ended}, with what had been said of it by then; say it before "
                f"that, or of the saved version: store.annotate('{self.tag}', labels=..., metrics=...)"
            )
        if self.__dict__.get("_ended"):
            raise self._over()

    @property
    def labels(self) -> dict[str, Any]:
        """Text to text. Numbers and booleans that are put into it become text.

        Raises
        ------
        InvalidMetadata
            What is put in cannot be a label. The draft is kept if the block ends with this error.
        CasstoreError
            The draft is saved, handed over to be, or discarded, and they are changed.
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
        CasstoreError
            The draft is saved, handed over to be, or discarded, and an entry is changed. What is put into a list or
            dict in it then is not recorded.
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
        return Checked(checked, self._check_open, given)

    @property
    def path(self) -> str:
        """The directory to write files into. It is on the store's file system, so that saving the files copies nothing.

        It is made when the block begins, or else when it is first asked for.

        Raises
        ------
        CasstoreError
            The block has ended, or the draft was committed or discarded.
        StoreUnwritable
            The store cannot be written to.
        """
        if self._directory is None:
            self._begun()
        return str(self._directory)

    @property
    def model(self) -> Model:
        """The saved version. One that is saved in the background is waited for; what it raises is raised here.

        Raises
        ------
        CasstoreError
            The version is not saved.
        TagNotFound
            It was, and another process has deleted it already.
        """
        if self._future is not None:
            return self._future.result()
        return self._saved()

    def _saved(self) -> Model:
        if self._is_gone:
            raise TagNotFound(f"{self.tag} was saved, and has been deleted meanwhile")
        if self._model is None:
            raise CasstoreError(
                f"{self.tag} is not saved yet; it is when the with block has ended, or draft.commit() has returned"
            )
        return self._model

    @property
    def future(self) -> Future[Model]:
        """What `commit_async` has returned, also at the end of a block of `Store.create` with `background`.

        Raises
        ------
        CasstoreError
            The version was not handed over to be saved in the background.
        """
        if self._future is None:
            raise CasstoreError(
                f"{self.tag} is not being saved in the background; it is when the with block of "
                "store.create(..., background=True) has ended, or by draft.commit_async()"
            )
        return self._future

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
        """After `Store.save` or `add`, what a `.casstoreignore` and the other patterns have left out of the version."""
        return () if self._rules is None else tuple(self._rules.left_out)

    @property
    def left_behind(self) -> tuple[str, ...]:
        """After `Store.save` with `move`, the files that are still there: replaced meanwhile, or kept by the system."""
        return self._left_behind

    def add(self, path: str | os.PathLike[str], *, exclude: str | Iterable[str] = (), ignore: bool = True) -> None:
        """Copy a directory's files, or a single file, into the draft; what becomes of `path` then does not matter.

        This is for a directory that another program owns, such as a checkpoint that a trainer will remove, and that is
        to be saved in the background. Where the file system shares blocks between copies, nothing is written.
        `Store.save` saves a directory without a copy of it, and waits.

        Parameters
        ----------
        path
            The directory or file, which stays as it is. A directory's files stand at the top of the draft.
        exclude, ignore
            As in `Store.save`: what is usually left out is left out here too, and `left_out` names it.

        Raises
        ------
        CasstoreError
            The block has ended, or the draft was committed or discarded.
        InvalidSource
            The files cannot be saved.
        FileChanged
            A file changed while it was being copied.
        FileExistsError
            A file of that name stands in the draft already.
        OSError
            The system refused something, as when the disk is full.
        """
        self._rules = Rules.of(exclude, ignore)
        adding.add(self._workspace, Path(path), Path(self.path), self._rules, self._progress)

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
            `from_hf` is set, and `path` is not a snapshot of huggingface_hub; or `move` is, and it is one.
        """
        self._rules = Rules.of(exclude, ignore)
        if move:
            hugging_face.refuse_move(path)
        if from_hf:
            self.metadata["huggingface"] = hugging_face.origin(path)
        handling = Handling.KEPT if self._kept_id else Handling.TAKE if move else Handling.COPY
        self._source = (path, handling, allow_empty)

    def take_kept(
        self, kept_id: str, objects: bytes | None, *, is_base_said: bool, parents: tuple[Parent, ...] | None = None,
        kept_at_ns: int | None = None,
    ) -> None:  # fmt: skip
        """Save a kept draft, with Python objects that are pickled already; for `Store.save_draft`, before the block.

        Parameters
        ----------
        kept_id
            The draft that the files of `take_from` are.
        objects
            The pickle, or None where there are no objects.
        is_base_said
            Whether the caller named the base, which `exist_ok` then compares.
        parents
            What it came from; None where nothing was said.
        kept_at_ns
            When it was kept, which the version counts as made at; None for now.
        """
        self._kept_at_ns = kept_at_ns
        self._kept_id = kept_id
        self._pickled_objects = objects
        self._wishes = replace(self._wishes, is_base_said=is_base_said, parents=parents)

    def commit(self) -> Model:
        """Save the version now. The end of the `with` block, where the draft is in one, then does nothing.

        When saving fails, the draft is kept, and the error says where (`error.draft_path`).

        Returns
        -------
        Model
            The saved version.

        Raises
        ------
        CasstoreError
            The draft was committed or discarded already, or is that of the process that this one was forked from; and
            what `Store.create` raises at the end of the block.
        OSError
            The system refused something, as when the disk is full.

        Examples
        --------
        >>> from pathlib import Path
        >>> draft = store.create("gpt:by-hand")
        >>> written = Path(draft.path, "model.bin").write_bytes(b"weights")
        >>> draft.commit()
        Model('gpt:by-hand')
        """
        self._leave(self._own(), None, self._commit)
        return self._saved()

    def commit_async(self) -> Future[Model]:
        """Have the version saved by a thread of its own, and go on at once. What `path` led to may not be used further.

        Drafts are saved one after the other, in the order in which they were handed over, whatever their names; one
        without a `base` comes from the newest version at that time. Who has handed over more than four that are not
        saved yet waits. `Store.close` waits for all, and so does the process before it ends. A process that is killed
        leaves what was handed over as kept drafts: `casstore drafts`.

        Labels, metadata and all else are taken as they are now, and files too, except what symbolic links lead to.

        Returns
        -------
        Future[Model]
            Its `result` waits for the version and returns it, or raises what `commit` would have; the draft is kept
            then. An error is also logged, unless a caller waits already; the first one for which no caller has asked
            is raised by `Store.close`. A save cannot be cancelled.

        Raises
        ------
        CasstoreError
            The draft was committed or discarded already, or is that of the process that this one was forked from.
        InvalidMetadata
            Labels, metadata or another description cannot be recorded. The draft is kept.
        OSError
            The system refused something, as when the disk is full. The draft is kept.

        Examples
        --------
        >>> from pathlib import Path
        >>> draft = store.create("gpt:later")
        >>> written = Path(draft.path, "model.bin").write_bytes(b"weights")
        >>> future = draft.commit_async()
        >>> future.result()
        Model('gpt:later')
        """
        made: list[tuple[aside.Aside, SaveRequest]] = []
        self._leave(self._own(), None, lambda session: made.append(self._set_aside(session)))
        self._future = background.submit(self._workspace, self.tag, lambda: self._save_from(*made.pop()))
        background.wait_for_room()
        return self._future

    def discard(self) -> None:
        """Remove the draft; nothing is saved, nor at the end of the `with` block. Doing it twice is no error.

        Raises
        ------
        CasstoreError
            The version is saved already, or handed over to be.
        """
        if self._ended not in ("", _DISCARDED):
            raise self._over()
        with contextlib.suppress(OSError):  # what cannot be removed is left to gc
            self._close()
        self._ended = _DISCARDED

    def _over(self) -> CasstoreError:
        return CasstoreError(
            f"the draft of {self.tag} was {self._ended}, and is over; a draft can be used once, so create another"
        )

    def _own(self) -> Session:
        """The session that the draft is in, which this process may end. Raises CasstoreError."""
        session = self._begun()
        if session.is_inherited:
            raise CasstoreError(
                f"the draft of {self.tag} belongs to the process that this one was forked from, which commits it"
            )
        return session

    def _begun(self) -> Session:
        """The session that the draft is in, opened if need be. Raises CasstoreError where the draft is over."""
        if self._ended:
            raise self._over()
        if self._session is not None:
            return self._session
        try:
            self._session = session = self._workspace.session(self._kept_id[: drafts.ID_LENGTH])
            self._directory = session.new_path()
            files.make_directory(self._directory)
        except BaseException:
            self._close()
            raise
        _keep_open_in_child()
        _open.add(self)
        _sessions.add(session)
        if not self._workspace.before_close:
            self._workspace.before_close.append(_finish)
        return session

    def __enter__(self) -> Draft:
        if self._is_entered:
            raise CasstoreError("a draft can be entered once; create another for another version")
        _sessions.discard(self._begun())
        self._is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is None:  # by now it has been committed, or discarded
            return
        if error is None and self._wishes.background and not self._session.is_inherited:
            self.commit_async()
        else:
            self._leave(self._session, error, self._commit)

    def _leave(self, session: Session, error: BaseException | None, action: Callable[[Session], None]) -> None:
        """End the draft: do this with it, or keep what the block has written. Whatever is raised then says where that
        is."""
        try:
            if not session.is_inherited:
                self._save_or_keep(session, error, action)
        except KeyboardInterrupt as interrupt:  # perhaps one of several at once, that came between two attempts
            reason = interrupt
            unsaved.persisting(lambda: None if session.is_inherited else self._keep(session, reason))
            raise
        finally:
            self._ended = self._ended or _NOT_SAVED
            # What cannot be removed, as where a process goes on writing into it, is left to gc: it is no reason to fail
            # once the version is saved, and not the one why it was not.
            if unsaved.stays(session):
                _sessions.discard(session)
                self._session = self._directory = None
            with contextlib.suppress(OSError):
                if self._moving is None:
                    self._close()
                else:  # an interrupt would get out in place of the error that says where the draft is
                    unsaved.persisting(self._close)
        if self._model is not None:
            self._after_save()

    def _after_save(self) -> None:
        if self._is_new:
            policies.apply_after_save(self._workspace, self.tag)
        # The version is saved, whatever becomes of this.
        with contextlib.suppress(CasstoreError, OSError):
            autogc.start_if_due(self._workspace)

    def _save_or_keep(self, session: Session, error: BaseException | None, action: Callable[[Session], None]) -> None:
        try:
            if error is None:
                action(session)
            elif self._wishes.keep_on_error or self._is_slip(error):
                unsaved.persisting(lambda: self._keep(session, error))
        except BaseException as failure:
            reason = failure
            unsaved.persisting(lambda: self._keep(session, reason))
            raise

    def _set_aside(self, session: Session) -> tuple[aside.Aside, SaveRequest]:
        """Move the draft to where it is kept, and note all that the version is to be."""
        draft = Path(self.path)
        if draft.is_symlink():
            raise displaced(self.path)
        request = self._request()
        record = self._recorded("it was to be saved in the background", [], request.description)
        has_files = unsaved.content(draft) is unsaved.Content.FILES
        self._moving = moving = unsaved.moving_of(
            self._workspace, session, draft, record, request.custom_objects, has_files=has_files
        )
        try:
            standing = aside.Aside(self._workspace, moving)
        except OSError:  # perhaps of every call from now on
            moving.has_files = unsaved.content(moving.standing) is unsaved.Content.FILES
            raise
        self._ended = _HANDED_OVER
        return standing, replace(request, handed_over_ns=self._handed_over_ns(keeping.made_at_ns(moving.target)))

    def _handed_over_ns(self, at_ns: int | None) -> int | None:
        """When the version counts as made; None for when it is saved, as where the clock went back before."""
        return None if at_ns is None or self._workspace.catalog.versions.has_later(self.tag.name, at_ns) else at_ns

    def _save_from(self, standing: aside.Aside, request: SaveRequest) -> Model:
        """Save the version from a draft that was set aside, in the background."""
        session = None
        try:
            if not request.is_base_said:
                request = replace(request, base=resolve.base(self._workspace.catalog, self.tag, None))
            session = self._workspace.session(standing.id)  # by which others know that it is saved
            try:
                draft = session.new_path()
                files.make_directory(draft)
                self._save(session, draft, replace(request, source=standing.path, handling=Handling.KEPT))
            finally:
                with contextlib.suppress(OSError):  # it is saved, or it is not: what is left is gc's
                    session.close()
        except BaseException as error:
            if session is None or not self._is_saved(session):
                standing.keep(error, save_as=self._save_as(error))
            else:
                standing.remove()
            raise
        finally:
            standing.release()
        self._after_save()
        return self._saved()

    def _abandon(self) -> None:
        """Keep a draft that the program has let go of, and say so; one without files is removed."""

        def refuse(_: Session) -> None:
            raise CasstoreError(f"{self.tag} was neither committed nor discarded")

        if self._session is None or self._session.is_inherited:
            return
        try:
            self._leave(self._session, None, refuse)
        except CasstoreError as error:
            if error.draft_path is not None:
                _log.warning("%s", error)

    def __del__(self) -> None:
        # This thread may be in the middle of anything, so it is only noted.
        if self.__dict__.get("_session") is not None and not self._is_entered:
            _abandoned.append(self)

    def _close(self) -> None:
        if self._session is not None:
            _sessions.discard(self._session)
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
        kept = unsaved.keep(self._workspace, session, self._moving, save_as=self._save_as(error))
        if kept is not None:
            unsaved.tell(error, kept)

    def _save_as(self, error: BaseException) -> str:
        """What to advise to save a draft as."""
        return self.tag.name if isinstance(error, TagExists) else str(self.tag)

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
        return self._recorded(f"{type(error).__name__}: {error}", faults, description), objects

    def _recorded(self, reason: str, faults: list[str], description: Description) -> drafts.Record:
        return drafts.Record(
            tag=str(self.tag), reason=reason, left_out=faults, description=description,
            base="" if self._wishes.base is None else str(self._wishes.base.tag),
            materialize=self._wishes.materialize, durability=self._wishes.durability or "",
            parents=None if self._wishes.parents is None else drafts.listed(self._wishes.parents),
        )  # fmt: skip

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
        request = self._request()
        if self._source is not None:
            source, handling, allow_empty = self._source
            request = replace(request, source=source, handling=handling, rules=self._rules, allow_empty=allow_empty)
        self._save(session, draft, request)

    def _request(self) -> SaveRequest:
        """What is to be saved of this draft, as it is said by now. Raises InvalidMetadata."""
        wishes = self._wishes
        durability = wishes.durability or self._workspace.catalog.setting("durability")
        description = self._said().checked()
        custom_objects = self._pickled_objects or _pickled(self.custom_objects)
        return SaveRequest(
            self.tag, Path(self.path), Handling.DRAFT, description, wishes.base, durability == "full",
            wishes.materialize, allow_empty=True, custom_objects=custom_objects,
            trust=Trust.AS_KNOWN if custom_objects is None else Trust.MADE_NOW,
            said_context=plain_mapping("context", self.context) if wishes.exist_ok else None,
            is_base_said=wishes.is_base_said, parents=wishes.parents, handed_over_ns=self._kept_at_ns,
        )  # fmt: skip

    def _save(self, session: Session, draft: Path, request: SaveRequest) -> None:
        self._new_bytes, self._left_behind = save(self._workspace, session, draft, request, self._progress)
        self._ended = _SAVED
        if self._left_behind and request.handling is Handling.KEPT:
            _log.warning(
                "%s is saved; what was written to its draft meanwhile, or cannot be removed, was moved to %s",
                self.tag, ", ".join(self._left_behind),
            )  # fmt: skip
        row = self._workspace.catalog.versions.find(self.tag)
        if row is None:
            self._is_gone = True  # another process has deleted it already
        else:
            self._model = Model(self._workspace, row)
            self._is_new = session_of(row.manifest_id) == session.id


def keep_abandoned() -> None:
    """Keep the drafts that the program has let go of without ending them, and log where they are."""
    while _abandoned:
        _abandoned.popleft()._abandon()


def _finish(workspace: Workspace) -> BaseException | None:
    """End what drafts have left unfinished in a store. Returns the error of one, if no caller has asked for it."""
    keep_abandoned()
    return background.finish(workspace)


@atexit.register
def _keep_open() -> None:
    """Keep what is neither committed nor discarded when the process ends."""
    keep_abandoned()
    for draft in list(_open):
        if not draft._is_entered:
            draft._abandon()


def _keep_open_in_child() -> None:
    """Arrange for `_keep_open` in a child of multiprocessing, which may end without the hooks of atexit."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None and os.getpid() not in _noted_for:
        from multiprocessing import util

        util.Finalize(None, _keep_open, exitpriority=0)
        _noted_for.add(os.getpid())


def _checked_entry(key: Any, value: Any) -> Any:
    """An entry of the metadata as it was given, since more may be put into it, as into a history."""
    plain_mapping("metadata", {key: value}, may_be_nan=True)
    return value


def _pickled(custom_objects: Mapping[str, Any]) -> bytes | None:
    return pickling.pickled(custom_objects) if custom_objects else None
