"""How long work tells what it is doing. The library itself prints nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a caller may pass as `progress=`. Methods may be called from several threads, one step at a time."""

    def start(self, step: str, total_bytes: int | None) -> None:
        """A step begins, such as "hash" or "write"; `total_bytes` is None when it is not known."""

    def advance(self, done_bytes: int) -> None:
        """So many more bytes of the step are done."""

    def finish(self) -> None:
        """The step is over, also when it failed."""


class Silent:
    """The default: says nothing."""

    def start(self, step: str, total_bytes: int | None) -> None:
        pass

    def advance(self, done_bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass


SILENT: Progress = Silent()
