"""Keeping a draft that could not be saved: it goes to drafts/ with a record, and the error says where.

One rename moves its directory together with the record. If the process is killed, the draft is either still in its
session, which gc reaps, or kept.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

from casstore.actions import keeping
from casstore.actions.describing import model_yaml
from casstore.actions.home import layout_of
from casstore.actions.reserved import in_any_room
from casstore.actions.saving.drafts import FILES, ID_LENGTH, OBJECTS, RECORD, Record, id_of, may_use, open_up
from casstore.actions.workspace import Workspace
from casstore.errors import CasstoreError, InvalidSource
from casstore.late_classes import dataclass
from casstore.storage import files
from casstore.storage.layout import DESCRIPTOR_NAME, Layout
from casstore.storage.sessions import Session
from casstore.storage.walking import walk

_ATTEMPTS = 5  # for a user who presses Ctrl-C repeatedly
# The sessions of drafts that could not be moved: their directories stay until the process ends.
_unmoved: list[Session] = []
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the files of a draft are now, and what to do next, in words for the user."""

    path: str
    advice: str


class Content(Enum):
    """Whether a draft holds anything to be kept. UNTOLD: unknown, as when the process has no descriptor left."""

    NOTHING = auto()
    FILES = auto()
    UNTOLD = auto()


def content(draft: Path) -> Content:
    """Whether a draft's directory holds files, or directories closed to this user, besides a save's own descriptor."""
    if draft.is_symlink() or not draft.is_dir():  # the target of a link stays where it is
        return Content.NOTHING
    open_up(draft)
    errors: list[OSError] = []
    paths = (path for path, status in walk(str(draft), errors.append) if not stat.S_ISDIR(status.st_mode))
    if any(path != DESCRIPTOR_NAME or not _is_descriptor(draft / path) for path in paths):
        return Content.FILES
    if any(map(_tells_of_content, errors)):
        return Content.FILES
    return Content.UNTOLD if errors else Content.NOTHING


def _tells_of_content(error: OSError) -> bool:
    """Whether the error is about a directory that cannot be listed: another user's, or one too deep for a path."""
    is_closed = error.errno == errno.EACCES and not may_use(error.filename, os.R_OK | os.X_OK)
    return is_closed or error.errno == errno.ENAMETOOLONG


def _is_descriptor(path: Path) -> bool:
    try:
        model_yaml.check_replaceable(path)
    except InvalidSource:
        return False
    return True


def moving_of(
    workspace: Workspace, session: Session, draft: Path, record: Record, objects: bytes | None, *, has_files: bool
) -> Moving:
    """The move of a draft from its session to drafts/, where gc leaves it for `keep_days`.

    `record` and the pickled `objects` are kept beside it if there is room. `has_files`: the draft is known to have
    some.
    """
    stage, name = session.new_path(), keeping.new_name(session.id[:ID_LENGTH])
    return Moving(workspace.layout, stage, draft, name, record, objects, workspace.mask, has_files)


def keep(workspace: Workspace, session: Session, moving: Moving, *, save_as: str) -> Kept | None:
    """Move the draft, also after an interrupted attempt. `save_as`: the tag or name to advise to the user.

    A draft that cannot be moved stays where it is until the process ends; None if it is not known to have files.
    """
    try:
        persisting(lambda: moving.run(lambda move: in_any_room(workspace, move)))
    except (OSError, CasstoreError) as error:
        if not os.path.exists(moving.target):  # also false if that is unknown
            if not moving.has_files:  # if every call fails nothing can be kept, not even a session
                return None
            if session not in _unmoved:
                _unmoved.append(session)
            return Kept(str(moving.standing), _stays(moving.standing, error))
    return kept_in(workspace, moving, save_as)


def kept_in(workspace: Workspace, moving: Moving, save_as: str) -> Kept:
    """Where a draft is that has been moved."""
    return Kept(str(moving.target / FILES), _how_to_save(workspace.layout, moving.target, save_as))


def stays(session: Session) -> bool:
    """Whether a draft stays in this session until the process ends."""
    return session in _unmoved


def persisting(action: Callable[[], _Result]) -> _Result:
    """Run the action, and run it again if Ctrl-C interrupts it; returns its result. An impatient user presses Ctrl-C
    more than once, and still wants the draft."""
    for _ in range(_ATTEMPTS):
        try:  # contextlib.suppress is code in which another Ctrl-C may come
            return action()
        except KeyboardInterrupt:
            continue
    return action()


def tell(error: BaseException, kept: Kept) -> None:
    """Add to an error where the draft is, in its message and as its `draft_path`, unless it says so already."""
    with contextlib.suppress(AttributeError, TypeError):  # an error of another library
        error.draft_path = kept.path  # type: ignore[attr-defined]
    said = (getattr(error, "strerror", None), *error.args[:1], *getattr(error, "__notes__", ()))
    if any(kept.advice in str(each) for each in said):
        return
    add_note = getattr(error, "add_note", None)  # new in Python 3.11
    if isinstance(error, OSError) and error.strerror:
        _place_first(error)
        error.strerror = f"{error.strerror}; {kept.advice}"
    elif not error.args:
        error.args = (kept.advice,)
    elif isinstance(error, CasstoreError) or add_note is None:
        error.args = (f"{error.args[0]}; {kept.advice}", *error.args[1:])
    else:
        with contextlib.suppress(AttributeError, TypeError):
            add_note(kept.advice)


def _place_first(error: OSError) -> None:
    """Have the message name its file beside what went wrong: OSError puts it last, after the advice."""
    places = [repr(place) for place in (error.filename, error.filename2) if place is not None]
    if places:
        error.strerror = f"{error.strerror}: {' -> '.join(places)}"
        del error.filename, error.filename2  # None would be printed


def _stays(path: Path, error: Exception) -> str:
    what = getattr(error, "strerror", None) or error
    return f"the draft could not be moved ({what}): its files stand in {path} until this process ends, so copy them now"


def _how_to_save(layout: Layout, directory: Path, tag: str) -> str:
    draft_id = id_of(directory)
    command = f"casstore save {tag} --draft {draft_id}{home_option(layout)}"
    return (
        f"the draft's files are kept in {directory / FILES}: `{command}` saves them (in Python: "
        f"store.save_draft({draft_id!r})), `casstore drafts` lists what is kept"
    )


def home_option(layout: Layout) -> str:
    """The option that a command needs to mean this store; empty for the default store."""
    with contextlib.suppress(RuntimeError):  # a user without a home directory
        if layout_of(None).home == layout.home:
            return ""
    return f" --home {shlex.quote(str(layout.home))}"


@dataclass(slots=True)
class Moving:
    """Moves one draft into drafts/. Each step sees what has been done, so all of them may be repeated at any point."""

    layout: Layout
    stage: Path
    draft: Path
    name: str
    record: Record
    objects: bytes | None
    mask: int  # the permissions that files of the store do not get
    has_files: bool

    @property
    def target(self) -> Path:
        return self.layout.drafts / self.name

    @property
    def standing(self) -> Path:
        """Where the files are now."""
        return next((path for path in (self.target / FILES, self.stage / FILES) if os.path.exists(path)), self.draft)

    def run(self, in_any_room: Callable[[Callable[[], None]], None]) -> None:
        if not self.target.exists():
            in_any_room(lambda: files.make_directory(self.layout.drafts))
            in_any_room(lambda: files.make_directory(self.stage))
            with contextlib.suppress(OSError):  # without it only the files are kept, and they are what took the time
                in_any_room(self._describe)
            in_any_room(self._move)
        with contextlib.suppress(OSError):
            _lead_to(self.draft, self.target / FILES)
        self.unshare()

    def unshare(self) -> None:
        """Give the moved draft files of its own, as far as possible."""
        with contextlib.suppress(OSError):
            _unshare(self.target / FILES, self.target / ".copy", self.mask)

    def _describe(self) -> None:
        if not self.stage.is_dir():
            return
        record = self.record.document()
        if self.objects is not None:
            try:
                self._write(OBJECTS, self.objects)
            except OSError as error:
                record["left_out"].append(f"custom_objects could not be kept: {error.strerror}")
        try:
            self._write(RECORD, json.dumps(record).encode())
        except OSError as error:
            lost = f"labels, metadata and the rest of the record could not be kept: {error.strerror}"
            record |= {"description": {}, "left_out": [*record["left_out"], lost]}
            self._write(RECORD, json.dumps(record).encode())

    def _write(self, name: str, data: bytes) -> None:
        files.write_file(self.stage / name, data, 0o600, temporary=self.stage / f".{name}")

    def _move(self) -> None:
        if self.draft.exists():
            files.rename(self.draft, self.stage / FILES)
        if self.stage.exists():
            files.rename(self.stage, self.target)


def _unshare(root: Path, temporary: Path, mask: int) -> None:
    """Copy the files that the save had linked to stored ones, so that editing the draft does not change those."""
    shared = [
        path for path, status in walk(str(root), lambda _: None) if stat.S_ISREG(status.st_mode) and status.st_nlink > 1
    ]
    files.remove_file(temporary)  # which an interrupted attempt may have left
    for path in shared:
        try:
            with files.open_regular(root / path) as source, files.create_file(temporary) as copy:
                files.copy_file(source, copy)
                files.set_mode(copy, (0o777 if files.is_executable(os.fstat(source)) else 0o666) & ~mask)
            files.rename(temporary, root / path)
        finally:
            files.remove_file(temporary)


def _lead_to(old: Path, new: Path) -> None:
    """Make links in a moved directory that name its old path lead into it again."""
    for directory, folders, names in os.walk(new):
        for name in [*folders, *names]:
            link = Path(directory, name)
            below = _below(old, Path(os.readlink(link))) if link.is_symlink() else None
            if below is not None:
                files.remove_file(link)
                os.symlink(os.path.relpath(new / below, directory), link)


def _below(old: Path, path: Path) -> Path | None:
    """The part of a path below `old`, which is gone; None for any other path. If the store's home is reached through a
    link, `old` has another path too."""
    for above in (path, *path.parents) if path.is_absolute() else ():
        with contextlib.suppress(OSError):
            if above.name == old.name and os.path.samefile(above.parent, old.parent):
                return path.relative_to(above)
    return None
