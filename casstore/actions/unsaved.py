"""A draft that could not be saved is kept in drafts/, with what is known of it, and the error says where.

That is a rename of its directory, with the record beside it, in one step: a process that is killed leaves it in its
session, which gc reaps, or kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from casstore.actions import keeping, model_yaml
from casstore.actions.drafts import FILES, OBJECTS, RECORD, Record, id_of
from casstore.actions.home import layout_of
from casstore.actions.reserved import in_any_room
from casstore.actions.workspace import Workspace
from casstore.catalog.sessions import Session
from casstore.errors import CasstoreError, InvalidSource
from casstore.storage import files
from casstore.storage.layout import DESCRIPTOR_NAME, Layout
from casstore.storage.walking import walk

_ATTEMPTS = 5  # where a user presses Ctrl-C again and again
# Sessions of drafts that could not be moved: their directories stand until the process ends.
_unmoved: list[Session] = []
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the files of a draft stand now, and how to go on, in words for the user. `is_unmoved`: in its session."""

    path: str
    advice: str
    is_unmoved: bool = False


def holds_files(draft: Path) -> bool:
    """Whether there is anything in a draft's directory to be kept, besides the descriptor that a save has put there."""
    if draft.is_symlink() or not draft.is_dir():  # what a link leads to stays where it is
        return False
    paths = (path for path, status in walk(str(draft), lambda _: None) if not stat.S_ISDIR(status.st_mode))
    return any(path != DESCRIPTOR_NAME or not _is_descriptor(draft / path) for path in paths)


def _is_descriptor(path: Path) -> bool:
    try:
        model_yaml.check_replaceable(path)
    except InvalidSource:
        return False
    return True


def keep(
    workspace: Workspace, session: Session, draft: Path, record: Record, objects: bytes | None, *, save_as: str
) -> Kept:
    """Move a draft, which stands in its session, to where gc leaves it for `keep_days`.

    `record` and the pickled `objects` are kept beside it where there is room. `save_as`: the tag or name to be advised.
    Where it cannot be moved it stays where it is until the process ends.
    """
    moving = _Moving(workspace.layout, session.new_path(), draft, keeping.new_name(), record, objects)
    try:
        persisting(lambda: moving.run(lambda move: in_any_room(workspace, move)))
    except (OSError, CasstoreError) as error:
        if not os.path.exists(moving.target):  # false also where nothing can be told
            _unmoved.append(session)
            return Kept(str(moving.standing), _stays(moving.standing, error), is_unmoved=True)
    return Kept(str(moving.target / FILES), _how_to_save(workspace.layout, moving.target, save_as))


def persisting(action: Callable[[], _Result]) -> _Result:
    """Do it, and again where Ctrl-C comes: an impatient user presses it more than once, and wants the draft all the
    same."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(KeyboardInterrupt):
            return action()
    return action()


def tell(error: BaseException, kept: Kept) -> None:
    """Have an error say what has become of the draft: in its message, and as its `draft_path`."""
    with contextlib.suppress(AttributeError, TypeError):  # of another library's making
        error.draft_path = kept.path  # type: ignore[attr-defined]
    add_note = getattr(error, "add_note", None)  # new in Python 3.11
    if isinstance(error, OSError) and error.strerror:
        error.strerror = f"{error.strerror}; {kept.advice}"
    elif not error.args:
        error.args = (kept.advice,)
    elif isinstance(error, CasstoreError) or add_note is None:
        error.args = (f"{error.args[0]}; {kept.advice}", *error.args[1:])
    else:
        with contextlib.suppress(AttributeError, TypeError):
            add_note(kept.advice)


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
    """What a command needs to mean this store: nothing where it is the default one."""
    with contextlib.suppress(RuntimeError):  # a user without a home
        if layout_of(None).home == layout.home:
            return ""
    return f" --home {shlex.quote(str(layout.home))}"


@dataclass(slots=True)
class _Moving:
    """One draft's way into drafts/. Each step sees what has been done, so that all may be done again at any point."""

    layout: Layout
    stage: Path
    draft: Path
    name: str
    record: Record
    objects: bytes | None

    @property
    def target(self) -> Path:
        return self.layout.drafts / self.name

    @property
    def standing(self) -> Path:
        """Where the files are now."""
        return next((path for path in (self.target / FILES, self.stage / FILES) if os.path.exists(path)), self.draft)

    def run(self, in_any_room: Callable[[Callable[[], None]], None]) -> None:
        if self.target.exists():
            return
        in_any_room(lambda: files.make_directory(self.layout.drafts))
        in_any_room(lambda: files.make_directory(self.stage))
        with contextlib.suppress(OSError):  # without it the files are all there is, and they are what took the time
            in_any_room(self._describe)
        in_any_room(self._move)
        with contextlib.suppress(OSError):
            _lead_to(self.draft, self.target / FILES)
        with contextlib.suppress(OSError):
            _unshare(self.target / FILES, self.target / ".copy")

    def _describe(self) -> None:
        if not self.stage.is_dir():
            return
        record = asdict(self.record)
        if self.objects is not None:
            try:
                self._write(OBJECTS, self.objects)
            except OSError as error:
                record["left_out"].append(f"custom_objects could not be kept: {error.strerror}")
        try:
            self._write(RECORD, json.dumps(record).encode())
        except OSError as error:
            lost = f"labels, metadata and the like could not be kept: {error.strerror}"
            record |= {"description": Record().description, "left_out": [*record["left_out"], lost]}
            self._write(RECORD, json.dumps(record).encode())

    def _write(self, name: str, data: bytes) -> None:
        files.write_file(self.stage / name, data, 0o600, temporary=self.stage / f".{name}")

    def _move(self) -> None:
        if self.draft.exists():
            files.rename(self.draft, self.stage / FILES)
        if self.stage.exists():
            files.rename(self.stage, self.target)


def _unshare(root: Path, temporary: Path) -> None:
    """Make copies of files that the save had linked to stored ones: who mends a draft must not change those."""
    shared = [
        path for path, status in walk(str(root), lambda _: None) if stat.S_ISREG(status.st_mode) and status.st_nlink > 1
    ]
    for path in shared:
        files.remove_file(temporary)
        with files.open_regular(root / path) as source, files.create_file(temporary) as copy:
            files.copy_file(source, copy)
            files.set_mode(copy, stat.S_IMODE(os.fstat(source).st_mode) | stat.S_IWUSR)
        files.rename(temporary, root / path)


def _lead_to(old: Path, new: Path) -> None:
    """Have links in a directory that has been moved lead into it again, where they named its old path."""
    for directory, folders, names in os.walk(new):
        for name in [*folders, *names]:
            link = Path(directory, name)
            below = _below(old, Path(os.readlink(link))) if link.is_symlink() else None
            if below is not None:
                files.remove_file(link)
                os.symlink(os.path.relpath(new / below, directory), link)


def _below(old: Path, path: Path) -> Path | None:
    """Where a path leads below `old`, which is gone; None for any other. Where the store's home is reached through a
    link, `old` has another path too."""
    for above in (path, *path.parents) if path.is_absolute() else ():
        with contextlib.suppress(OSError):
            if above.name == old.name and os.path.samefile(above.parent, old.parent):
                return path.relative_to(above)
    return None
