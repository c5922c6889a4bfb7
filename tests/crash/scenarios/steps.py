"""What scenarios are made of: small files, and what is done to a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crash.scenarios import Files, open_store, put
from tests.kit import checkpoint, noise

Operation = Callable[[Path], object]
LARGE = 1_300_000
A = {"w.bin": noise(LARGE), "small": noise(700, 9)}
B = {"mid": noise(80_000, 4), "s": noise(300, 5)}


def step(number: int) -> Files:
    """The files of a step of training, which are stored as they come."""
    return checkpoint(number, size=20_000)


def heavy(number: int) -> Files:
    """The files of a step of training, of which each is large enough to be adopted."""
    return checkpoint(number, size=90_000)


def run_of(count: int) -> dict[str, Files]:
    """The first steps of a run, by tag."""
    return {f"m:{number}": step(number) for number in range(count)}


def having(versions: dict[str, Files]) -> Operation:
    """Save these versions."""

    def operation(home: Path) -> None:
        for tag, files in versions.items():
            put(home, tag, files)

    return operation


def cold(home: Path) -> None:
    """Save three steps of a run, packed."""
    for tag, files in run_of(3).items():
        put(home, tag, files, materialize=False)


def doing(verb: str, *arguments: Any, **options: Any) -> Operation:
    """Call that method of the store."""

    def operation(home: Path) -> None:
        with open_store(home) as store:
            getattr(store, verb)(*arguments, **options)

    return operation
