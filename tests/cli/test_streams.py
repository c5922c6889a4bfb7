"""Started without some of its standard streams, as by cron and systemd, it does what it is told, in silence."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from tests.cli.conftest import Cli
from tests.kit import script

CLOSINGS = [closed for count in (1, 2, 3) for closed in itertools.combinations(range(3), count)]


def run(cli, closed: tuple[int, ...], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run casstore with some of its streams closed."""
    redirections = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    command = [sys.executable, "-m", "casstore.cli", *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *command], env=cli.environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("closed", CLOSINGS, ids=lambda closed: "".join(map(str, closed)))
def test_a_save_saves_whatever_is_closed(cli: Cli, files: Path, closed) -> None:
    done = run(cli, closed, "save", "-l", "stage=dev", "bert:v1", files)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("" if 1 in closed else "bert:v1\t")
    with casstore.Store(cli.home) as store:
        assert store.get("bert:v1").labels == {"stage": "dev"}
        assert store.verify().is_sound


@pytest.mark.crash
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("list",), 0), (("list", "--json"), 0), (("show", "bert"), 0), (("stats",), 0), (("verify",), 0), (("gc",), 0),
        (("path", "nobody"), 12), (("nothing",), 2), ((), 2), (("--help",), 0), (("delete", "bert:v1"), None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_no_verb_minds(saved: Cli, closed, arguments, code) -> None:
    done = run(saved, closed, *arguments)
    assert "Traceback" not in done.stderr
    assert "NoneType" not in done.stderr
    if code is not None:
        assert done.returncode == code, done
        assert bool(done.stderr) == (code != 0 and 2 not in closed)
    with casstore.Store(saved.home) as store:
        assert store.verify().is_sound


def test_the_library_holds_no_file_under_the_number_of_a_stream(home: Path) -> None:
    """What C code and children write to standard error would go into it."""
    done = script(
        """
import os, sys
from pathlib import Path
import casstore
from casstore.storage.descriptors import OpenDirectory, opened
out = os.dup(1)
for number in range(3):
    os.close(number)
store = casstore.Store(sys.argv[1])
with store.create("m:1") as draft:
    Path(draft.path, "a").write_bytes(bytes(2_000_000))
    free = [number for number in range(3) if not os.path.exists(f"/proc/self/fd/{number}")]
    held = {number: os.readlink(f"/proc/self/fd/{number}") for number in range(3) if number not in free}
model = store.get("m:1")
reader = model.open("a")
reader.read(1)
kept = [opened(sys.argv[1] + "/catalog.db-shm", os.O_RDONLY), OpenDirectory(sys.argv[1])]
taken = [number for number in range(3) if os.path.exists(f"/proc/self/fd/{number}")]
held |= {number: os.readlink(f"/proc/self/fd/{number}") for number in taken}
os.write(out, repr([held, kept[0].fileno() > 2, kept[1][0] > 2, len(kept[1])]).encode())
kept[1].close()
for number in range(3):
    try:
        os.write(number, b"noise of a library")
    except OSError:
        pass
assert store.verify().is_sound
os.write(out, b" sound")
""",
        home,
    )
    held, *rest = done.stdout.rpartition("}")[0], done.stdout.rpartition("}")[2]
    assert rest == [", True, True, 1] sound"], done
    # SQLite itself fills these numbers with /dev/null.
    assert "catalog" not in held
    assert "/store" not in held


def test_a_closed_stream_is_dev_null_for_the_children_too() -> None:
    done = script(
        """
import os, subprocess, sys
out = os.dup(1)
os.set_inheritable(out, True)
for number in range(3):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None
from casstore.cli.streams import open_missing
open_missing()
open_missing()
print("nowhere")
print("nowhere", file=sys.stderr)
assert sys.stdin.read() == ""
links = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
child = subprocess.run(["sh", "-c", f"readlink /proc/self/fd/2 >&{out}"], pass_fds=[out])
os.write(out, repr((links, child.returncode)).encode())
"""
    )
    assert done.stdout == "/dev/null\n(['/dev/null', '/dev/null', '/dev/null'], 0)", done
    assert done.stderr == ""
