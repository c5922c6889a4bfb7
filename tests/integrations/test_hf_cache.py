"""`casstore hf-cache link`: what huggingface_hub and transformers make of it, where they are installed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.cli.main import run
from casstore.integrations import hugging_face
from tests.kit import noise, plant


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def bert(store: casstore.Store, tmp_path: Path) -> casstore.Store:
    for number in (1, 2, 3):
        files = {"config.json": b'{"n": %d}' % number, "sub/model.bin": noise(50_000, number), "same": noise(9000)}
        store.save(f"bert:v{number}", plant(tmp_path / f"out{number}", files), materialize=False)
    store.set_alias("bert@prod", "bert:v1")
    return store


def revisions(cache: Path, name: str = "bert") -> dict[str, bytes]:
    root = cache / f"models--casstore--{name}"
    return {
        ref.name: (root / "snapshots" / ref.read_text() / "config.json").read_bytes()
        for ref in (root / "refs").iterdir()
    }


def test_aliases_and_the_newest_are_revisions(bert: casstore.Store, cache: Path) -> None:
    linked = hugging_face.link(bert, "bert")
    assert linked.repository == "casstore/bert"
    assert linked.revisions == {"main": "bert:v3", "prod": "bert:v1", "v1": "bert:v1", "v3": "bert:v3"}
    one, three = b'{"n": 1}', b'{"n": 3}'
    assert revisions(cache) == {"main": three, "prod": one, "v1": one, "v3": three}
    assert all(len(path.name) == 40 for path in Path(linked.path, "snapshots").iterdir())
    bert.set_alias("bert@prod", "bert:v2")
    hugging_face.link(bert, "bert")
    assert hugging_face.link(bert, "bert").revisions["prod"] == "bert:v2"  # and a third time changes nothing
    assert revisions(cache) == {"main": three, "prod": b'{"n": 2}', "v2": b'{"n": 2}', "v3": three}
    assert len(list(Path(linked.path, "snapshots").iterdir())) == 2
    hugging_face.link(bert, "bert", everything=True)
    assert set(revisions(cache)) == {"main", "prod", "v1", "v2", "v3"}


def test_it_stays_whatever_the_store_does(bert: casstore.Store, cache: Path) -> None:
    before = hugging_face.link(bert, "bert")
    found = revisions(cache)
    bert.gc(evict_all=True)
    bert.delete("bert:v3", now=True)
    bert.gc(evict_all=True)
    assert revisions(cache) == found
    assert bert.verify().is_sound
    config = next(Path(before.path).glob("snapshots/*/config.json"))
    config.parent.joinpath("same").unlink()  # as by a user, and it comes back
    hugging_face.link(bert, "bert")
    assert config.parent.joinpath("same").exists() == config.parent.exists()
    assert revisions(cache)["main"] == b'{"n": 2}'
    hugging_face.unlink(bert, "bert")
    assert not list(cache.iterdir())
    assert bert.verify().is_sound


def test_what_is_not_its_own_is_left_alone(bert: casstore.Store, cache: Path, tmp_path: Path) -> None:
    plant(cache / "models--casstore--bert", {"refs/main": b"abc"})
    for call in (hugging_face.link, hugging_face.unlink):
        with pytest.raises(casstore.InvalidSource, match="left as it is"):
            call(bert, "bert")
    assert (cache / "models--casstore--bert/refs/main").read_bytes() == b"abc"
    hugging_face.link(bert, "bert", tmp_path / "other")
    with casstore.Store(tmp_path / "second") as second:
        second.save("bert:v1", tmp_path / "out1")
        with pytest.raises(casstore.InvalidSource, match="another store"):
            hugging_face.link(second, "bert", tmp_path / "other")


def test_another_file_system_takes_copies(bert: casstore.Store, elsewhere: Path) -> None:
    with pytest.raises(casstore.InvalidSource, match="--copy"):
        hugging_face.link(bert, "bert", elsewhere)
    hugging_face.link(bert, "bert", elsewhere, copy=True)
    assert revisions(elsewhere)["prod"] == b'{"n": 1}'


def test_the_command(bert: casstore.Store, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(bert.home)
    assert run(["--home", home, "hf-cache", "link", "bert"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "casstore/bert\tmain\tbert:v3"
    assert run(["--home", home, "hf-cache", "link", "bert", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revisions"]["prod"] == "bert:v1"
    assert run(["--home", home, "hf-cache", "unlink", "bert"]) == 0
    assert run(["--home", home, "hf-cache", "unlink", "bert"]) == 12
    assert run(["--home", home, "hf-cache", "link", "none"]) == 12
    capsys.readouterr()
    assert run(["hf-cache"]) == 2
    assert "casstore hf-cache link NAME" in capsys.readouterr().err


def test_it_follows_an_alias_that_is_moved(
    bert: casstore.Store, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, three = (b'{"n": %d}' % number for number in (1, 2, 3))
    other = tmp_path / "other"
    hugging_face.link(bert, "bert")
    hugging_face.link(bert, "bert", other, everything=True, copy=True)
    assert bert.settings()["hf_caches"] == f"{cache}:{other}"
    assert run(["--home", str(bert.home), "alias", "set", "bert@prod", "bert:v2"]) == 0
    assert revisions(cache) == {"main": three, "prod": two, "v2": two, "v3": three}
    assert revisions(other) == {"main": three, "prod": two, "v1": one, "v2": two, "v3": three}
    assert next(other.glob("models--*/snapshots/*/same")).stat().st_nlink == 1
    # A process that has just read what prod meant finds its files.
    assert one in [path.read_bytes() for path in cache.glob("models--*/snapshots/*/config.json")]
    assert run(["--home", str(bert.home), "alias", "rollback", "bert@prod"]) == 0
    assert revisions(cache)["prod"] == one
    assert run(["--home", str(bert.home), "alias", "delete", "bert@prod"]) == 0
    assert set(revisions(cache)) == {"main", "v3"}
    assert capsys.readouterr().err == ""


def test_refresh(bert: casstore.Store, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hugging_face.refresh(bert) == ([], [])
    hugging_face.link(bert, "bert")
    bert.set_alias("bert@prod", "bert:v2")
    bert.save("bert:v4", plant(tmp_path / "out4", {"config.json": b"4"}))
    bert.save("gpt:v1", tmp_path / "out4")
    plant(cache / "models--casstore--gpt", {"refs/main": b"abc"})  # not casstore's, for all its name
    assert run(["--home", str(bert.home), "hf-cache", "refresh"]) == 0
    assert "casstore/bert\tprod\tbert:v2" in capsys.readouterr().out.splitlines()
    assert revisions(cache)["main"] == b"4"
    assert run(["--home", str(bert.home), "hf-cache", "refresh", "gpt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"linked": [], "problems": []}
    assert len(list(cache.glob("models--casstore--bert/snapshots/*"))) == 4
    hugging_face.refresh(bert)
    assert len(list(cache.glob("models--casstore--bert/snapshots/*"))) == 2


def test_what_cannot_follow_is_told_and_fails_no_move(
    bert: casstore.Store, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(hugging_face.link(bert, "bert").path)
    snapshot = root / "snapshots" / str(bert.get("bert:v2").digest)[:40]
    snapshot.write_text("in the way")
    assert run(["--home", str(bert.home), "alias", "set", "bert@prod", "bert:v2"]) == 0
    told = capsys.readouterr()
    assert told.out == "bert@prod\tbert:v2\n"
    assert told.err.startswith(f"{root} is not up to date: ")
    assert told.err.endswith("; then `casstore hf-cache refresh bert`\n")
    assert revisions(cache)["prod"] == b'{"n": 1}'
    assert run(["--home", str(bert.home), "hf-cache", "refresh"]) == 3
    snapshot.unlink()
    assert run(["--home", str(bert.home), "hf-cache", "refresh"]) == 0
    assert revisions(cache)["prod"] == b'{"n": 2}'
    hugging_face.unlink(bert, "bert")
    assert run(["--home", str(bert.home), "alias", "set", "bert@prod", "bert:v3"]) == 0
    assert not list(cache.iterdir())  # nor does it come back


def test_two_processes_that_move_an_alias_at_once(
    bert: casstore.Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes in where the first has read what the aliases mean, and waits for it."""
    hugging_face.link(bert, "bert")
    fill, flock = hugging_face._fill, fcntl.flock
    waits = threading.Event()
    seconds: list[threading.Thread] = []

    def second() -> None:
        with casstore.Store(bert.home) as store:
            store.set_alias("bert@prod", "bert:v3")
            hugging_face.refresh(store)
        waits.set()

    def locked(descriptor: int, operation: int) -> None:
        if seconds and threading.current_thread() is seconds[0]:
            waits.set()
        flock(descriptor, operation)

    def filled(*arguments: Any, **options: Any) -> None:
        if not seconds:
            seconds.append(threading.Thread(target=second))
            seconds[0].start()
            waits.wait()
        fill(*arguments, **options)

    monkeypatch.setattr(hugging_face, "_fill", filled)
    monkeypatch.setattr(fcntl, "flock", locked)
    bert.set_alias("bert@prod", "bert:v2")
    assert hugging_face.refresh(bert)[1] == []
    seconds[0].join()
    assert revisions(cache)["prod"] == b'{"n": 3}'


def test_what_a_link_leads_to_stays(
    bert: casstore.Store, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another member of a group may have made the cache, and the setting."""
    root = Path(hugging_face.link(bert, "bert").path)
    mine = plant(tmp_path / "mine", {"note": b"mine", "sub/note": b"mine"})
    for name in ("refs", "snapshots"):
        aside = (root / name).rename(root / f"{name}.aside")
        (root / name).symlink_to(mine)
        assert run(["--home", str(bert.home), "alias", "set", "bert@prod", "bert:v2"]) == 0
        assert "is a link, and what it leads to is left as it is" in capsys.readouterr().err
        (root / name).unlink()
        aside.rename(root / name)
    assert (mine / "note").read_bytes() == (mine / "sub/note").read_bytes() == b"mine"
    assert sorted(os.listdir(mine)) == ["note", "sub"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_what_is_another_users_is_left_to_that_user(
    bert: casstore.Store, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chown(hugging_face.link(bert, "bert").path, 1000, -1)
    assert run(["--home", str(bert.home), "alias", "set", "bert@prod", "bert:v2"]) == 0
    assert "it belongs to another user, who has to do that" in capsys.readouterr().err
    assert revisions(cache)["prod"] == b'{"n": 1}'


def test_a_store_that_was_moved_says_that_nothing_follows(bert: casstore.Store, cache: Path, tmp_path: Path) -> None:
    root = Path(hugging_face.link(bert, "bert").path)
    shutil.copytree(bert.home, tmp_path / "copy")
    with casstore.Store(tmp_path / "copy") as store:
        assert hugging_face.refresh(store) == ([], [])  # it is the other's
    bert.close()
    moved = bert.home.rename(tmp_path / "moved")
    with casstore.Store(moved) as store:
        linked, (problem,) = hugging_face.refresh(store)
        assert linked == []
        assert f"remove {root} and link it again" in problem
        shutil.rmtree(root)
        hugging_face.link(store, "bert")
        assert len(hugging_face.refresh(store)[0]) == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hugging_face.cache_directory() == Path("~/.cache/huggingface/hub").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hugging_face.cache_directory() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert hugging_face.cache_directory() == Path("~/hf/hub").expanduser()
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    assert hugging_face.cache_directory() == Path("/hub")


@pytest.mark.filterwarnings("ignore")
def test_huggingface_hub_finds_it(bert: casstore.Store, cache: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs casstore[huggingface]")
    hugging_face.link(bert, "bert")
    found: Any = hub.snapshot_download("casstore/bert", revision="prod", cache_dir=cache, local_files_only=True)
    assert Path(found, "config.json").read_bytes() == b'{"n": 1}'
    weights = hub.hf_hub_download("casstore/bert", "sub/model.bin", cache_dir=cache, local_files_only=True)
    assert Path(weights).read_bytes() == noise(50_000, 3)
    scan = hub.scan_cache_dir(cache)
    assert not scan.warnings
    (repository,) = scan.repos
    assert (repository.repo_id, set(repository.refs)) == ("casstore/bert", {"main", "prod", "v1", "v3"})
    scan.delete_revisions(os.path.basename(found)).execute()  # what `hf cache rm` does
    assert set(revisions(cache)) == {"main", "v3"}
    assert bert.verify().is_sound
    assert bert.get("bert:v1").open("config.json").read() == b'{"n": 1}'
    hugging_face.link(bert, "bert")
    assert set(revisions(cache)) == {"main", "prod", "v1", "v3"}
