"""casstore watch"""

from __future__ import annotations

import fnmatch
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import casstore
from casstore.cli.exits import ExitCode, message
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import as_text, human_bytes, is_screen, plural, printable, say
from casstore.late_classes import dataclass

_EXAMPLES = """\b
Examples:
  casstore watch out/ --as sst2                           checkpoint-500 becomes sst2:checkpoint-500
  casstore watch out/ --as sst2 --marker trainer_state.json
  casstore watch out/ --as run --pattern 'step_*' --marker .metadata      of torch.distributed.checkpoint
  casstore watch out/ --as run --settle 60 --once         what is complete after a minute, and no more
"""
_SETTLE_S = 30.0
_MOST_NAMED = 3
# A trainer that writes many directories completes each a moment later, and nothing is to be said of that.
_MARKER_COMES_WITHIN_S = 10.0
_Stamp = tuple[tuple[str, int, int], ...]


@dataclass()
class _Watched:
    """A directory: when it was seen first, what it looked like, since when, whether it was said that it is waited for,
    and why it could not be saved."""

    first: float
    stamp: _Stamp = ()
    since: float = 0.0
    is_told: bool = False
    fault: str = ""


class _Watch:
    """What is to be saved of what, and what has been done with it."""

    def __init__(self, options: Options, store: casstore.Store, place: Path, name: str, how: Mapping[str, Any]) -> None:
        self.options = options
        self.store = store
        self.place = place
        self.name = name
        self.marker: str | None = how["marker"]
        quiet_for = how["settle"]
        self.settle: float = quiet_for if quiet_for is not None else 0 if self.marker else _SETTLE_S
        self.watched: dict[str, _Watched] = {}
        # Which directory it was: another run may write one of the same name.
        self.done: dict[str, tuple[int, int] | None] = {}
        self.is_once: bool = how["once"]
        self.has_refused = False  # a directory whose tag another has

    def look(self, pattern: str) -> list[str]:
        """Save what has become complete; the names of those that have not."""
        waiting = []
        for path in self._directories():
            if not fnmatch.fnmatchcase(path.name, pattern):
                continue
            which = _identity(path)
            if self.done.get(path.name) == which:
                continue
            if self._is_complete(path) and self._save(path):
                self.done[path.name] = which
                self.watched.pop(path.name, None)
            else:
                waiting.append(path.name)
        return waiting

    def lack(self, pattern: str) -> str | None:
        """That no directory matches, with some that are there; None where one does."""
        names = [path.name for path in self._directories()]
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return None
        others = ", ".join(names[-_MOST_NAMED:]) + (", ..." if len(names) > _MOST_NAMED else "")
        advice = f"; those there are: {printable(others)} (--pattern says which are meant)" if names else ""
        return f"no directory in {printable(str(self.place))} matches {printable(pattern)}{advice}"

    def _directories(self) -> list[Path]:
        """In the order in which they were changed."""
        found = (path for path in self.place.iterdir() if path.is_dir())
        return sorted(found, key=lambda each: (_mtime(each), each.name))

    def _is_complete(self, path: Path) -> bool:
        seen = self.watched.setdefault(path.name, _Watched(time.monotonic()))
        stamp = _stamp(path)
        if stamp != seen.stamp or not seen.since:
            seen.stamp, seen.since = stamp, time.monotonic()
        lacks = self.marker if self.marker is not None and not (path / self.marker).exists() else None
        if lacks is None and stamp and time.monotonic() - seen.since >= self.settle:
            return True
        may_come = bool(stamp) and lacks is not None and not self.is_once
        is_due = not may_come or time.monotonic() - seen.first >= _MARKER_COMES_WITHIN_S
        if is_due and not seen.is_told and not self.options.quiet:
            seen.is_told = True
            what = f"{self.settle:g} s without a change" if lacks is None else f"its {lacks}"
            if not stamp:
                what = "files, as it is empty"
            say(f"{printable(path.name)}: waiting for {printable(what)}")
        return False

    def _save(self, path: Path) -> bool:
        """Whether that is done with; a directory that has gone meanwhile, or changed while it was saved, is looked at
        again later."""
        tag = casstore.slug(f"{self.name}:{path.name}")
        try:
            with self.store.create(tag, materialize=False, exist_ok=True) as draft:
                draft.take_from(path, move=False, allow_empty=False)
        except casstore.TagExists:
            self.has_refused = True
            say(f"{printable(path.name)}: not saved, as {tag} is saved already, with other files")
        except (casstore.FileChanged, casstore.InvalidSource, FileNotFoundError) as error:
            self.watched.pop(path.name, None)
            say(f"{printable(path.name)}: not saved, and looked at again: {printable(str(error))}")
            return False
        except OSError as error:  # of the store, such as a full disk, on which there may be room later
            seen, fault = self.watched[path.name], message(error)
            if fault != seen.fault:
                seen.fault = fault
                say(f"{printable(path.name)}: not saved, and tried again: {printable(fault)}")
            return False
        else:
            if draft.is_new:
                self._show(draft.model)
        return True

    def _show(self, model: casstore.Model) -> None:
        if self.options.json:
            click.echo(json.dumps({"tag": str(model.tag), "size_bytes": model.size, "file_count": model.file_count}))
        elif self.options.quiet:
            click.echo(str(model.tag))
        elif is_screen():
            click.echo(f"saved {model.tag}: {plural(model.file_count, 'file')}, {human_bytes(model.size)}")
        else:
            click.echo("\t".join(as_text(each, for_screen=False) for each in (model.tag, model.size, model.file_count)))
        sys.stdout.flush()


@click.command(short_help="Save each checkpoint of a training, once it is complete.", epilog=_EXAMPLES)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--as", "name", metavar="NAME", required=True, help="The name that the versions get.")
@click.option("--pattern", metavar="GLOB", default="checkpoint-*", show_default=True, help="Which directories in DIR.")
@click.option(
    "--marker",
    metavar="FILE",
    help="A directory is complete once it has this file, which its writer must write last: trainer_state.json of "
    "transformers' Trainer, .metadata of torch.distributed.checkpoint.",
)
@click.option(
    "--settle",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Complete once nothing has changed for so long; with --marker it must be there, too, as where other processes "
    "still write when it comes.  [default: 30, and 0 with --marker]",
)
@click.option(
    "--every",
    metavar="SECONDS",
    type=click.FloatRange(min=0.05),
    default=2.0,
    show_default=True,
    help="How often to look.",
)
@click.option(
    "--once",
    is_flag=True,
    help="End when all that match are saved, or, if some are not then, after --settle; exit code 3 if so, also where "
    "another directory is saved by a name already.",
)
@common_options
@pass_options
def watch(options: Options, /, directory: Path, name: str, pattern: str, **how: Any) -> None:
    """Save each checkpoint that a training writes into DIR, once it is complete.

    For trainers that cannot be told to save by themselves. A directory in DIR that matches becomes the version
    NAME:DIRECTORY, packed at once; the directory stays, and may be removed from then on. What is saved already is not
    saved again, so that it can be started anew at any time; where a directory is another than what was saved by its
    name, that is said. Ctrl-C ends it (exit code 130).

    A directory that never becomes complete is never saved; what it waits for is said once. Where no directory matches
    at the start, that is said; with --once it ends then, and that is no failure.

    In a pipe: tag, bytes and number of files of each version that is saved. With --json one document a line.
    """
    with options.open_store(create=True) as store:
        _check_name(name)
        watching = _Watch(options, store, directory, name, how)
        try:
            waiting = _watch(watching, pattern, how["every"], once=how["once"])
        except KeyboardInterrupt:
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
    if waiting:
        say(f"not complete, and not saved: {printable(', '.join(waiting))}")
    if waiting or watching.has_refused:
        raise click.exceptions.Exit(ExitCode.PARTLY_DONE)


def _check_name(name: str) -> None:
    try:
        casstore.Tag(name, "checkpoint")
    except casstore.InvalidTag as error:
        near = casstore.slug(name).partition(":")[0] if name else ""
        raise casstore.InvalidTag(f"{error}; {near!r} would do" if near else str(error)) from error


def _watch(watching: _Watch, pattern: str, every: float, *, once: bool) -> list[str]:
    if not watching.options.quiet:
        if not once:
            say(f"watching {printable(str(watching.place))} for {printable(pattern)}; Ctrl-C ends it")
        lack = watching.lack(pattern)
        if lack is not None:
            say(lack)
    until = time.monotonic() + watching.settle + (every if watching.settle else 0)
    while True:
        waiting = watching.look(pattern)
        if once and (not waiting or time.monotonic() > until):
            return waiting
        time.sleep(min(every, max(watching.settle, 0.05)) if once else every)


def _identity(path: Path) -> tuple[int, int] | None:
    """The device and inode of a directory; None where it has gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _stamp(path: Path) -> _Stamp:
    """Every file with its size and time, so that whatever is written shows."""
    found = []
    for parent, _, names in os.walk(path):
        for name in names:
            file = os.path.join(parent, name)
            try:
                status = os.lstat(file)
            except OSError:
                continue
            found.append((os.path.relpath(file, path), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))
