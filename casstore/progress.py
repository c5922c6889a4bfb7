"""How long work tells what it is doing. The library itself prints nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a caller may pass as `progress=`. Methods may be called from several threads, one step at a time."""

    def start(self, step: str, total_bytes: int | None) -> None:
        """A step begins.

        Parameters
        ----------
        step
            Its name, such as "hash" or "write".
        total_bytes
            How many bytes it will take; None when that is not known.
        """

    def advance(self, done_bytes: int) -> None:
        """More of the step is done.

        Parameters
        ----------
        done_bytes
            How many more bytes are done since the last call.
        """

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
