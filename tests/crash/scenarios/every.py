"""Every scenario by name: importing a file of them registers what is in it."""

from __future__ import annotations

from tests.crash.scenarios import (
    READING,
    SCENARIOS,
    adopting,
    collecting,
    exchanging,
    keeping,
    reading,
    retaining,
    saving,
)

__all__ = [
    "NAMES",
    "READING",
    "SCENARIOS",
    "adopting",
    "collecting",
    "exchanging",
    "keeping",
    "reading",
    "retaining",
    "saving",
]

NAMES = [name for name in SCENARIOS if name not in READING]
