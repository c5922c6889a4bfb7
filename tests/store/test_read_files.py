"""Many files of a version that are read together."""

from __future__ import annotations

import random

import pytest

import casstore
from tests.kit import checkpoint, noise

FILES = {
    **{f"small/{number:03}.json": noise(number * 10, number) for number in range(600)},
    **{f"copy/{number}": noise(4000, 7) for number in range(3)},
    "empty": b"",
    "large": noise(3_000_000, 1),
    "some": noise(900_000, 2),
    "zeros": bytes(2_000_000),
    **checkpoint(1),
}


@pytest.fixture(params=["standing", "packed"])
def model(request: pytest.FixtureRequest, store: casstore.Store, save) -> casstore.Model:
    found = save("m:1", FILES)
    if request.param == "packed":
        store.gc(evict_all=True)
    return found


def test_each_comes_whole_and_in_its_turn(model: casstore.Model) -> None:
    paths = list(FILES)
    random.Random(3).shuffle(paths)
    paths += paths[:5]
    assert list(model.read_files(iter(paths))) == [(path, FILES[path]) for path in paths]
    assert list(model.read_files([])) == []


def test_a_file_that_is_not_there_is_told_first(model: casstore.Model) -> None:
    with pytest.raises(FileNotFoundError, match="m:1 has no file 'nothing'"):
        next(model.read_files(["empty", "nothing"]))


def test_those_before_a_damaged_one_are_read(store: casstore.Store, save, rot) -> None:
    save("m:1", {"a": noise(2000, 1), "b": noise(2_500_000, 2), "c": noise(2000, 3)}, materialize=False)
    pack = next(each for each in (store.home / "objects").rglob("*") if each.is_file() and each.stat().st_size > 10**6)
    rot(pack)
    reading = store.get("m:1").read_files("abc")
    assert next(reading) == ("a", noise(2000, 1))
    with pytest.raises(casstore.IntegrityError, match=r"b of m:1 cannot be read: .*`casstore verify`"):
        next(reading)


def test_a_version_that_is_gone_is_told(store: casstore.Store, model: casstore.Model) -> None:
    assert model.files
    store.delete("m:1")
    with pytest.raises(casstore.TagNotFound):
        model.read_files(["empty"])


def test_its_url_has_its_tag(model: casstore.Model) -> None:
    assert model.url == "casstore://m:1"
