"""A progress bar on stderr, for work that takes long enough to be watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import casstore
from casstore.cli.options import Options
from casstore.cli.output import printable

if TYPE_CHECKING:
    import rich.progress

# Below this a bar would only flash; and most commands are over before rich could be loaded.
_SHOW_AFTER_S = 0.25


class Bar:
    """A `casstore.Progress` that shows the step under way, once the work has taken a moment."""

    def __init__(self, is_visible: bool) -> None:
        self._is_visible = is_visible
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._step = ""
        self._total: int | None = None
        self._done = 0
        self._is_under_way = False
        self._display: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        # For a step that tells nothing of its progress, such as a sync.
        self._clock = threading.Timer(_SHOW_AFTER_S, self._remind)
        self._clock.daemon = True
        if is_visible:
            self._clock.start()

    def start(self, step: str, total_bytes: int | None) -> None:
        with self._lock:
            self._step, self._total, self._done, self._is_under_way = step, total_bytes, 0, True
            self._drop_task()
            self._show()

    def advance(self, done_bytes: int) -> None:
        with self._lock:
            self._done += done_bytes
            self._show()

    def finish(self) -> None:
        with self._lock:
            self._is_under_way = False
            self._drop_task()

    def close(self) -> None:
        """Take the bar off the screen."""
        self._clock.cancel()
        with self._lock:
            self._is_under_way = False
            if self._display is not None:
                self._display.stop()
                self._display = None

    def _remind(self) -> None:
        with self._lock:
            if self._is_under_way:
                self._show()

    def _drop_task(self) -> None:
        if self._display is not None and self._task is not None:
            self._display.remove_task(self._task)
        self._task = None

    def _show(self) -> None:
        if not self._is_visible or self._total == 0 or time.monotonic() - self._began < _SHOW_AFTER_S:
            return
        if self._display is None:
            self._display = _display()
            self._display.start()
        if self._task is None:
            self._task = self._display.add_task(printable(self._step), total=self._total)
        self._display.update(self._task, completed=self._done)


@contextmanager
def progress_bar(options: Options) -> Iterator[casstore.Progress]:
    """What to pass on as `progress`; it shows nothing without a terminal."""
    bar = Bar(options.may_show_progress)
    try:
        yield bar
    finally:
        bar.close()


def _display() -> rich.progress.Progress:
    # Imported when a bar is due; see _SHOW_AFTER_S.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Either(ProgressColumn):
        """One column for a step of known length, another, or none, for one that takes as long as it takes."""

        def __init__(
            self,
            known: DownloadColumn | TransferSpeedColumn | TimeRemainingColumn,
            unknown: TimeElapsedColumn | None = None,
        ) -> None:
            super().__init__()
            self._known, self._unknown = known, unknown

        def render(self, task: Task) -> Text:
            column = self._known if task.total is not None else self._unknown
            return Text() if column is None else column.render(task)

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Either(DownloadColumn(binary_units=True)),
        Either(TransferSpeedColumn()),
        Either(TimeRemainingColumn(compact=True), TimeElapsedColumn()),
        console=Console(stderr=True),
        transient=True,
    )
