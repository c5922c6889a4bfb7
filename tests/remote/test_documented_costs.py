"""How many requests things take: what docs/remotes.md says, and that they do not grow with what is in a remote."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from tests.kit import noise
from tests.pages import ROOT
from tests.remote.counting import Requests, requests

__all__ = ["requests"]

PAGE = (ROOT / "docs/remotes.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| ([^|]+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)
_SIZE = 40_000_000
Save = Callable[..., casstore.Model]


@pytest.fixture
def ours(tmp_path: Path) -> casstore.Store:
    return casstore.Store(tmp_path / "ours", auto_gc=False)


@pytest.fixture
def step(ours: casstore.Store) -> Save:
    """Saves one version after the other, of which each differs a little from the one before."""

    def save(number: int, size: int = 2_000_000) -> casstore.Model:
        data = bytearray(noise(size))
        data[: 1000 * number] = bytes(1000 * number)
        with ours.create(f"m:v{number}", materialize=False, durability="relaxed") as draft:
            Path(draft.path, "w.bin").write_bytes(data)
        return draft.model

    return save


def test_the_page_says_how_many(ours: casstore.Store, step: Save, tmp_path: Path, requests: Requests) -> None:
    told = {name: tuple(map(int, counts)) for name, *counts in _ROW.findall(PAGE)}
    found: dict[str, tuple[int, ...]] = {}
    url = str(tmp_path / "remote")
    step(0, _SIZE)
    step(1, _SIZE)
    with (
        ours.add_remote("origin", url) as there,
        casstore.Store(tmp_path / "theirs") as theirs,
        theirs.add_remote("origin", url, make=False) as again,
        casstore.Remote(url) as alone,
    ):
        there.list()
        alone.list()
        again.list()  # the marker has been read
        requests.clear()

        def count(name: str, done: object) -> object:
            counted = requests.taken()
            found[name] = tuple(counted.get(kind, 0) for kind in ("PUT", "LIST", "GET"))
            return done

        count("push the first version, 2 packs", there.push("m:v0"))
        count("push the next, 1 pack", there.push("m:v1"))
        count("push what is there", there.push("m:v1"))
        count("pull into an empty store", again.pull("m:v0"))
        count("pull the next", again.pull("m:v1"))
        count("pull what is here", again.pull("m:v1"))
        count("status, when seen before", there.status())
        with alone.get("m:v1").open("w.bin") as file:
            count("read some bytes of a file there", file.read(10))
        count("delete a version", there.delete("m:v0"))
    assert found == told


def test_requests_do_not_grow_with_the_versions_of_a_remote(
    ours: casstore.Store, step: Save, tmp_path: Path, requests: Requests
) -> None:
    with ours.add_remote("origin", str(tmp_path / "remote")) as there:
        counts = []
        for number in range(25):
            step(number)
            there.list()
            requests.clear()
            there.push(f"m:v{number}")
            counts.append(requests.taken()["total"])
    assert len(set(counts[5:])) == 1, counts


def test_who_meets_a_remote_first_reads_a_summary(
    ours: casstore.Store, step: Save, tmp_path: Path, requests: Requests
) -> None:
    url = str(tmp_path / "remote")
    with ours.add_remote("origin", url) as there:
        for number in range(35):
            step(number, 1000)
        there.push()
        there.gc()
        with casstore.Remote(url) as first:
            assert len(first.list()) == 35
        with casstore.Store(tmp_path / "theirs") as theirs, theirs.add_remote("o", url, make=False) as again:
            requests.clear()
            assert len(again.list()) == 35
    assert requests.taken()["total"] < 6
