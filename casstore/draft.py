"""A version being written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cloudpickle

from casstore.actions import autogc, descriptor, snapshot
from casstore.actions.ignoring import Rules
from casstore.actions.save import NewVersion, save
from casstore.actions.trust import Trust
from casstore.actions.unchanged import displaced
from casstore.actions.workspace import Workspace
from casstore.catalog.sessions import Session
from casstore.errors import CasstoreError, InvalidMetadata
from casstore.model import Model
from casstore.progress import Progress
from casstore.release import __version__
from casstore.storage import files
from casstore.storage.manifest import Base
from casstore.tag import Tag


class Draft:
    """What `Store.create` gives: put files into `path`, change labels and metadata, and leave the `with` block.

    Leaving it normally saves the version, which `model` then is; an exception, KeyboardInterrupt too, removes the
    draft. In a forked child leaving it does nothing, since the draft is the parent's.
    """

    def __init__(
        self,
        workspace: Workspace,
        tag: Tag,
        *,
        labels: dict[str, str],
        metadata: dict[str, Any],
        module: str,
        api_version: str,
        base: Base | None,
        signatures: Mapping[str, Any],
        options: Any,
        context: Any,
        custom_objects: dict[str, Any],
        durability: str | None,
        materialize: bool,
        progress: Progress,
    ) -> None:
        self.tag = tag
        self.labels = labels
        self.metadata = metadata
        self.module = module
        self.api_version = api_version
        self.signatures = dict(signatures)
        self.options = options
        self.context = context
        self.custom_objects = custom_objects
        self._workspace = workspace
        self._base = base
        self._durability = durability
        self._materialize = materialize
        self._progress = progress
        self._session: Session | None = None
        self._directory: Path | None = None
        self._source: tuple[Path, bool, bool] | None = None
        self._model: Model | None = None
        self._rules: Rules | None = None
        self._new_bytes = 0
        self._left_behind: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The directory to write files into; on the store's file system, so that saving them copies nothing."""
        if self._directory is None:
            raise CasstoreError("a draft has a directory only inside its with block: with store.create(...) as draft:")
        return str(self._directory)

    @property
    def model(self) -> Model:
        """The saved version, once the block has ended."""
        if self._model is None:
            raise CasstoreError(f"{self.tag} is not saved yet; it is when the with block has ended")
        return self._model

    @property
    def new_bytes(self) -> int:
        """Once it is saved, how many of its bytes the store had not, before they are compressed."""
        return self._new_bytes

    @property
    def left_out(self) -> tuple[str, ...]:
        """After `take_from`, what a `.casstoreignore` and the like have left out of the version."""
        return () if self._rules is None else tuple(self._rules.left_out)

    @property
    def left_behind(self) -> tuple[str, ...]:
        """After `take_from` with `move`, the files that are still there: replaced meanwhile, or kept by the system."""
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
        """Save the files at `path` instead of the draft directory's; for `Store.save`. Raises InvalidSource."""
        self._rules = Rules.of(exclude, ignore)
        if from_hf:
            self.metadata["huggingface"] = snapshot.origin(path)
        self._source = (path, move, allow_empty)

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
            if kind is None and not session.is_inherited:
                self._commit(session)
        finally:
            # What cannot be removed, as where somebody goes on writing into it, is left to gc: it is no reason to fail
            # once the version is saved, and not the one why it was not.
            with contextlib.suppress(OSError):
                self._close()
        if self._model is not None:
            # The version is saved, whatever becomes of this.
            with contextlib.suppress(CasstoreError, OSError):
                autogc.start_if_due(self._workspace)

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = self._directory = None

    def _commit(self, session: Session) -> None:
        draft = Path(self.path)
        if draft.is_symlink():
            raise displaced(self.path)
        source, take, allow_empty = self._source or (draft, True, True)
        durability = self._durability or self._workspace.catalog.setting("durability")
        description = descriptor.describe(
            labels=self.labels,
            metadata=self.metadata,
            module=self.module,
            api_version=self.api_version,
            signatures=self.signatures,
            options=self.options,
            context=self.context,
        )
        custom_objects = _pickled(self.custom_objects)
        new = NewVersion(
            self.tag, description, self._base, durability == "full", self._materialize, __version__,
            trust=Trust.AS_KNOWN if custom_objects is None else Trust.MADE_NOW,
        )  # fmt: skip
        saved = save(
            self._workspace,
            session,
            draft,
            source,
            new,
            take=take,
            allow_empty=allow_empty,
            custom_objects=custom_objects,
            progress=self._progress,
            rules=self._rules,
        )
        self._new_bytes, self._left_behind = saved
        row = self._workspace.catalog.versions.find(self.tag)
        if row is not None:  # somebody may have deleted it already
            self._model = Model(self._workspace, row)


def _pickled(custom_objects: Mapping[str, Any]) -> bytes | None:
    if not custom_objects:
        return None
    try:
        return bytes(cloudpickle.dumps(dict(custom_objects)))
    except Exception as error:  # pickling runs the objects' own code, which may raise anything
        raise InvalidMetadata(f"custom_objects cannot be pickled: {error}") from error
