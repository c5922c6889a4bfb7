"""A remote that is removed: what is known of it goes, and nothing that only it has is lost."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

import casstore
from tests.cli.conftest import Cli
from tests.kit import plant, streamed


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def pushed(store: casstore.Store, place: Path, tmp_path: Path) -> casstore.Store:
    for number in range(3):
        store.save(f"m:v{number}", plant(tmp_path / str(number), {"w": b"%d" % number}))
    with store.add_remote("origin", str(place)) as there:
        there.push()
        there.list()
    return store


def known(home: Path, table: str = "remote_object") -> int:
    connection = apsw.Connection(str(home / "catalog.db"), flags=apsw.SQLITE_OPEN_READONLY)
    found: int = connection.execute(f"SELECT count(*) FROM {table}").get
    connection.close()
    return found


def test_what_is_known_of_it_goes(pushed: casstore.Store, tmp_path: Path) -> None:
    with pushed.add_remote("nas", str(tmp_path / "nas")) as there:
        there.push("m:v0")
        there.list()
    before = known(pushed.home)
    pushed.remove_remote("origin")
    assert 0 < known(pushed.home) < before
    pushed.remove_remote("nas")
    assert known(pushed.home) == 0
    assert known(pushed.home, "remote_push") == 0


def test_what_another_name_of_it_needs_stays(pushed: casstore.Store, place: Path) -> None:
    pushed.add_remote("same", str(place), make=False)
    before = known(pushed.home)
    pushed.remove_remote("origin")
    assert known(pushed.home) == before


def test_it_stays_while_versions_are_only_there(pushed: casstore.Store, place: Path) -> None:
    pushed.evict(["m:v0", "m:v1"])
    with pytest.raises(casstore.StoreError) as caught:
        pushed.remove_remote("origin")
    for text in ("m:v0", "m:v1", "`casstore pull m:v0 m:v1 --from origin`", "casstore remote remove origin --force"):
        assert text in str(caught.value)
    assert pushed.remotes() == {"origin": str(place)}
    pushed.remote("origin").pull(["m:v0", "m:v1"])
    pushed.remove_remote("origin")
    assert pushed.remotes() == {}
    assert streamed(pushed.get("m:v0")) == {"w": b"0"}


def test_another_name_of_it_takes_over(pushed: casstore.Store, place: Path) -> None:
    pushed.evict("m:v0")
    pushed.add_remote("better", str(place), make=False)
    pushed.remove_remote("origin")
    assert [each.remote for each in pushed.elsewhere()] == ["better"]
    assert streamed(pushed.get("m:v0")) == {"w": b"0"}


def test_with_force_the_names_stay_for_a_remote_to_come(pushed: casstore.Store, place: Path, tmp_path: Path) -> None:
    """As where it has moved."""
    pushed.evict("m:v0")
    pushed.remove_remote("origin", force=True)
    assert [str(each.tag) for each in pushed.elsewhere()] == ["m:v0"]
    with pytest.raises(casstore.NoRemote, match="casstore remote add origin URL"):
        pushed.get("m:v0")
    with pytest.raises(casstore.TagExists):
        pushed.save("m:v0", tmp_path / "1", exist_ok=True)
    place.rename(tmp_path / "moved")
    pushed.add_remote("origin", str(tmp_path / "moved"), make=False)
    assert streamed(pushed.get("m:v0")) == {"w": b"0"}


def test_the_command_line(pushed: casstore.Store) -> None:
    cli = Cli(pushed.home)
    pushed.evict("m:v0")
    done = cli("remote", "remove", "origin", code=1)
    assert "`casstore pull m:v0 --from origin`" in done.err
    assert cli("remote", "remove", "origin", "--force", "--json").json == {"removed": "origin", "elsewhere": ["m:v0"]}
    assert cli("remote", "list").out == ""
