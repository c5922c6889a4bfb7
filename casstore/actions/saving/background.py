"""Saves that their caller does not wait for: one thread of this process does them, in the order they were asked for.

The thread lives while there is something to do. What it saves stands in drafts/ until that is done, so a process that
is killed leaves drafts that are kept. A process that ends by itself finishes first.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from casstore.actions.saving import exit_status
from casstore.actions.workspace import Workspace
from casstore.errors import CasstoreError
from casstore.tag import Tag

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_Told = TypeVar("_Told")

# Each one stands on the disk beside what is saved. Who is that far ahead of the disk has to wait for it.
MOST_UNFINISHED = 4


class SavedLater(Future[_Result]):
    """The outcome of a save. It cannot be cancelled, and in a forked child it is not to be had."""

    def __init__(self, tag: Tag) -> None:
        super().__init__()
        self._tag = tag
        self._process = os.getpid()
        self._listeners: set[int] = set()  # threads
        self.is_heard = False  # whether a caller has been told how it ended

    def cancel(self) -> bool:
        """Does nothing, and returns False: what is handed over is saved."""
        return False

    def result(self, timeout: float | None = None) -> _Result:
        """Wait for the save, and return the version, or raise what went wrong."""
        return self._told(lambda: super(SavedLater, self).result(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the save, and return what went wrong, or None."""
        return self._told(lambda: super(SavedLater, self).exception(timeout))

    @property
    def error(self) -> BaseException | None:
        """What went wrong, if it is over, as far as is known without asking on behalf of a caller."""
        return super().exception() if self.done() else None

    @property
    def is_listened_to(self) -> bool:
        return bool(self._listeners)

    def _told(self, wait: Callable[[], _Told]) -> _Told:
        if os.getpid() != self._process:
            raise CasstoreError(
                f"{self._tag} is saved by the process that this one was forked from, which alone can tell how that went"
            )
        listener = threading.get_ident()
        self._listeners.add(listener)
        try:
            told = wait()
            self.is_heard = True
        except BaseException as error:
            if error is self.error:  # and not that of a wait that came to nothing
                self.is_heard = True
            raise
        else:
            return told
        finally:
            self._listeners.discard(listener)


@dataclass(frozen=True, slots=True)
class _Job:
    workspace: Workspace
    tag: Tag
    action: Callable[[], Any]
    future: SavedLater[Any]

    def run(self) -> None:
        """Do it, and tell the future. An error for which nobody waits is logged.

        What is raised is of a callback of the future, or of the log.
        """
        self.future.set_running_or_notify_cancel()
        try:
            result = self.action()
        except BaseException as error:  # noqa: BLE001 - it is raised where the future is asked
            _clear(error)
            is_awaited = self.future.is_listened_to
            try:
                self.future.set_exception(error)
            finally:
                if not is_awaited:
                    _log.error("%s could not be saved in the background: %s", self.tag, error)
        else:
            self.future.set_result(result)


def _clear(error: BaseException) -> None:
    """Let go of what the error went through, such as open files: a future may keep it for hours."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__


class _Queue:
    def __init__(self) -> None:
        self._is_at_exit = False
        self.begin()

    def begin(self) -> None:
        """Start with nothing to do, as a forked child must: what it has inherited is its parent's."""
        self._inherited = getattr(self, "_jobs", None)  # whose end in a child would be one amid the fork
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()  # the first is being done
        self._failed: list[_Job] = []
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._is_interrupted = False

    def submit(self, job: _Job) -> None:
        """Do it after all that came before."""
        with self._changed:
            if not self._is_over:
                try:
                    self._finish_before_exit()
                except RuntimeError:  # the first of a thread that has outlived the main thread
                    self._is_over = True
                else:
                    self._add(job)
                    return
        job.run()  # the process has done all that was to be done before it ends, and this comes even later
        if job.future.error is not None:
            self._failed.append(job)

    def wait_for_room(self) -> None:
        self._wait_until(lambda: len(self._jobs) <= MOST_UNFINISHED)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait, unless a callback of a future asks, for which its own job would wait."""
        with self._changed:
            if threading.current_thread() is not self._thread:
                self._start()
                self._changed.wait_for(is_so)

    def _add(self, job: _Job) -> None:
        self._jobs.append(job)
        self._start()

    def _start(self) -> None:
        """Have a thread do what is to be done; also where an interrupt came while one was being started."""
        if self._jobs and (self._thread is None or not self._thread.is_alive()):
            # A daemon: at exit it is waited for in `finish_all`, which may be interrupted.
            self._thread = threading.Thread(target=self._work, name="casstore-background", daemon=True)
            self._thread.start()

    def _finish_before_exit(self) -> None:
        """Arrange for `finish_all`, once. Hooks of `threading` are run last come, first served, in children of
        multiprocessing too: so this one before that by which concurrent.futures ends all its pools, which a save uses.
        """
        if not self._is_at_exit:
            from concurrent.futures import thread  # noqa: F401 - its hook must stand first; and reading needs none of it

            getattr(threading, "_register_atexit", atexit.register)(self.finish_all)
            self._is_at_exit = True

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._thread is not threading.current_thread():  # another was started in its place
                    return
                if not self._jobs:
                    self._thread = None
                    return
                job = self._jobs[0]
            try:
                job.run()
            except BaseException:  # noqa: BLE001 - who waits for the next one would wait for ever
                with contextlib.suppress(BaseException):
                    _log.exception("a callback, or the log, has raised when told how the save of %s ended", job.tag)
            with self._changed:
                self._failed = [each for each in self._failed if not each.future.is_heard]
                if job.future.error is not None:
                    self._failed.append(job)
                del job
                self._jobs.popleft()
                self._changed.notify_all()

    def wait(self, workspace: Workspace, name: str | None = None) -> None:
        """Wait for what is to be saved in this store, or of one name in it."""

        def is_done() -> bool:
            mine = (job.tag for job in self._jobs if job.workspace is workspace)
            return not any(name in (None, tag.name) for tag in mine)

        self._wait_until(is_done)

    def finish(self, workspace: Workspace) -> BaseException | None:
        """Wait for what is to be saved in this store. Returns the first error that no caller has asked for."""
        with self._changed:
            self.wait(workspace)
            failed = [job for job in self._failed if job.workspace is workspace]
            self._failed = [job for job in self._failed if job.workspace is not workspace]
        errors = [job.future.error for job in failed if not job.future.is_heard]
        return errors[0] if errors else None

    def finish_all(self) -> None:
        """Wait for all, before the process ends. Ctrl-C ends it at once: what is unfinished stays a draft."""
        try:
            with self._changed:
                if self._jobs:
                    _log.info("waiting for what is saved in the background: %s", self._names())
                    self._start()
                self._changed.wait_for(lambda: not self._jobs)
                self._is_over = True
        except KeyboardInterrupt:
            if names := self._names():
                self._is_interrupted = True
                _log.warning("interrupted before these were done: %s; `casstore drafts` lists those not saved", names)

    def tell_status(self) -> None:
        """Have the process end in an error where something was not saved of which the program has not been told."""
        if self._is_interrupted:
            exit_status.be_interrupted()
        elif not all(job.future.is_heard for job in self._failed):
            exit_status.fail()

    def _names(self) -> str:
        return ", ".join(str(job.tag) for job in list(self._jobs) if not job.future.done())


_queue = _Queue()
os.register_at_fork(after_in_child=_queue.begin)
atexit.register(_queue.tell_status)


def submit(workspace: Workspace, tag: Tag, action: Callable[[], _Result]) -> SavedLater[_Result]:
    """Have the background thread save a version, after all that it was given before."""
    future: SavedLater[_Result] = SavedLater(tag)
    _queue.submit(_Job(workspace, tag, action, future))
    return future


def wait_for_room() -> None:
    """Wait while more than `MOST_UNFINISHED` versions are to be saved."""
    _queue.wait_for_room()


def wait_for(workspace: Workspace, name: str) -> None:
    """Wait until nothing of this name is left to be saved in a store."""
    _queue.wait(workspace, name)


def finish(workspace: Workspace) -> BaseException | None:
    """Wait until nothing is left to be saved in a store that is to be closed.

    Returns the first of its errors that no caller has asked a future for.
    """
    return _queue.finish(workspace)
