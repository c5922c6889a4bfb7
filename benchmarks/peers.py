"""The programs that casstore is measured against, and casstore itself, all behind the same few verbs.

A peer keeps versions of one model in a repository of its own. Each verb starts the program as a user would, with its
defaults, except that borg does not encrypt (restic always does) and compresses by zstd instead of LZ4.
BentoML has no verb for saving files: it is called as a library, and then copies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import measure


class Peer:
    """One program with one repository, below `place`, which must not exist."""

    name: ClassVar[str]
    program: ClassVar[str]
    START: ClassVar[tuple[str, ...]] = ()
    """A command that does nothing but start the program."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True)
        self.repository = place / "repository"
        self.environment: Mapping[str, str] = {}

    def run(self, *command: str | Path, directory: Path | None = None) -> str:
        """Run to the end; returns what it printed. Exits with the program's own words if it fails."""
        done = subprocess.run(
            command, cwd=directory, env=os.environ | self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"\n{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self) -> None:
        self.run(*self.START)

    def save(self, version: str, source: Path) -> None:
        """Keep the directory `source` as `version`."""
        raise NotImplementedError

    def pack(self) -> None:
        """Make what is kept small. Most do when they save."""

    def open(self, version: str) -> Path:
        """The directory that holds the files of `version`."""
        target = self.place / "opened" / version
        target.mkdir(parents=True)
        self.extract(version, target)
        return target

    def extract(self, version: str, target: Path) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Take away what `open` made."""
        measure.remove(self.place / "opened")

    def stored_bytes(self) -> int:
        return measure.file_bytes(self.repository)


class Casstore(Peer):
    name = "casstore"
    program = sys.executable
    COMMAND = (sys.executable, "-m", "casstore.cli")
    START = (*COMMAND, "--version")

    def casstore(self, *arguments: str | Path) -> str:
        return self.run(*self.COMMAND, "--home", self.repository, *arguments)

    def save(self, version: str, source: Path) -> None:
        self.casstore("save", f"model:{version}", source)

    def pack(self) -> None:
        self.casstore("gc", "--evict-all")

    def open(self, version: str) -> Path:
        return Path(self.casstore("path", f"model:{version}").rstrip("\n"))

    def close(self) -> None:
        self.pack()


class Borg(Peer):
    name = "borg"
    program = "borg"
    START = ("borg", "--version")
    # borg's default level of zstd. On finetune-bf16 level 10 takes four times as long to come from 0.769 of raw to
    # 0.762, level 19 takes 25 times as long to stay at 0.769, and borg's default, LZ4, leaves 0.986.
    COMPRESSION = "zstd,3"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.environment = {"BORG_BASE_DIR": str(place / "base"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        self.run("borg", "init", "--encryption=none", self.repository)

    def save(self, version: str, source: Path) -> None:
        compression = f"--compression={self.COMPRESSION}"
        self.run("borg", "create", compression, f"{self.repository}::{version}", ".", directory=source)

    def extract(self, version: str, target: Path) -> None:
        self.run("borg", "extract", f"{self.repository}::{version}", directory=target)


class Restic(Peer):
    name = "restic"
    program = "restic"
    START = ("restic", "version")
    COMPRESSION = "auto"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.environment = {
            "RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(place / "cache"), "RESTIC_COMPRESSION": self.COMPRESSION,
        }  # fmt: skip
        self.run("restic", "init")

    def save(self, version: str, source: Path) -> None:
        self.run("restic", "backup", "--compression", self.COMPRESSION, "--tag", version, ".", directory=source)

    def extract(self, version: str, target: Path) -> None:
        self.run("restic", "restore", "latest", "--tag", version, "--target", target)


class ResticMax(Restic):
    name = "restic max"
    COMPRESSION = "max"


class Casync(Peer):
    name = "casync"
    program = "casync"
    START = ("casync", "--version")

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.repository.mkdir()

    def casync(self, verb: str, version: str, directory: Path) -> None:
        store = f"--store={self.repository / 'default.castr'}"
        self.run("casync", verb, store, self.repository / f"{version}.caidx", directory)

    def save(self, version: str, source: Path) -> None:
        self.casync("make", version, source)

    def extract(self, version: str, target: Path) -> None:
        self.casync("extract", version, target)


class BentoML(Peer):
    name = "BentoML"
    program = sys.executable
    # Its parts are imported when they are first used.
    START = (sys.executable, "-c", "import bentoml; bentoml.models.create")

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.module = measure.bento()
        self.store = measure.bento_store(place)
        self.repository = place / "bentoml"

    def save(self, version: str, source: Path) -> None:
        with self.module.models.create(f"model:{version}", _model_store=self.store) as model:
            shutil.copytree(source, model.path, dirs_exist_ok=True)

    def open(self, version: str) -> Path:
        return Path(self.store.get(f"model:{version}").path)


class Copies(Peer):
    """`cp -r` of the directories as they stand: nothing is made smaller."""

    name = "cp -r"
    program = "cp"
    START = ("cp", "--version")

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.repository.mkdir()

    def save(self, version: str, source: Path) -> None:
        self.run("cp", "-r", source, self.repository / version)

    def extract(self, version: str, target: Path) -> None:
        self.run("cp", "-r", f"{self.repository / version}/.", target)


def require(*kinds: type[Peer]) -> None:
    """Exit unless all of these programs are there."""
    missing = sorted({kind.program for kind in kinds if shutil.which(kind.program) is None})
    if missing:
        sys.exit(f"{' and '.join(missing)} not found: install with the system's packages, or leave out with --peers")


def versions(directory: Path) -> list[Path]:
    """The versions of a set that checkpoints.py made, in order."""
    if not directory.is_dir():
        sys.exit(f"{directory} is missing; benchmarks/checkpoints.py makes it")
    return sorted(directory.iterdir(), key=lambda path: int(path.name.removeprefix("v")))


def version_bytes(paths: list[Path]) -> int:
    return sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())
