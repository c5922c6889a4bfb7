"""Settings that a store keeps, its home, and its life as an object."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import casstore
from tests.kit import Sql, noise, plant


def test_settings_are_kept_for_all_who_open_the_store(store: casstore.Store, home: Path) -> None:
    assert store.settings() == {key: setting.default for key, setting in casstore.SETTINGS.items()}
    store.set_setting("durability", "relaxed")
    with casstore.Store(home) as other:
        assert other.settings()["durability"] == "relaxed"
        other.set_setting("durability", None)
    assert store.settings()["durability"] == "full"


def test_the_durability_setting_is_the_default_of_saves(store: casstore.Store, sql: Sql) -> None:
    def synced():
        return sql("SELECT synced FROM container ORDER BY id DESC LIMIT 1")[0][0]

    for setting, argument, expected in (("full", None, 1), ("relaxed", None, 0), ("relaxed", "full", 1)):
        store.set_setting("durability", setting)
        with store.create("m", durability=argument) as draft:
            plant(draft.path, {"a": os.urandom(100)})
        assert synced() == expected
    with store.create("m", durability="relaxed") as draft:
        plant(draft.path, {"a": os.urandom(100)})
    assert synced() == 0


def test_the_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_HOME", str(tmp_path / "from-environment"))
    with casstore.Store() as store:
        assert store.home == tmp_path / "from-environment"
    monkeypatch.delenv("CASSTORE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    with casstore.Store() as store:
        assert store.home == tmp_path / ".casstore"


def test_a_relative_home_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with casstore.Store("here/store") as store:
        monkeypatch.chdir("/")
        with store.create("m:1") as draft:
            plant(draft.path, {"a": b"a"})
        assert Path(draft.model.path) == tmp_path / "here/store/models/m/1"


def test_a_new_home_is_private_and_a_given_one_keeps_its_mode(tmp_path: Path) -> None:
    casstore.Store(tmp_path / "new").close()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "group").mkdir(mode=0o770)
    os.chmod(tmp_path / "group", 0o2770)
    casstore.Store(tmp_path / "group").close()
    assert stat.S_IMODE((tmp_path / "group").stat().st_mode) == 0o2770


def test_the_umask_holds_for_what_is_stored(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with casstore.Store(tmp_path / "store") as store, store.create("m:1") as draft:
            plant(draft.path, {"w.bin": noise(2_000_000), "run!": b"x"})
    finally:
        os.umask(before)
    standing = (tmp_path / "store/models/m/1").iterdir()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in standing}
    assert modes == {"w.bin": 0o440, "run": 0o550, "model.yaml": 0o440}


def test_a_making_that_was_cut_short_is_taken_up(home: Path) -> None:
    (home / "objects/loose/ab").mkdir(parents=True)
    with casstore.Store(home) as store, store.create("m:1"):
        pass


def test_a_closed_store_can_be_used_again_and_closed_twice(store: casstore.Store) -> None:
    store.close()
    assert store.list() == []
    store.close()
    store.close()


def test_an_unknown_setting_suggests_one(store: casstore.Store) -> None:
    with pytest.raises(casstore.InvalidSetting, match="did you mean 'link_mode'"):
        store.set_setting("linkmode", "auto")
