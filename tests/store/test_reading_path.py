"""What getting, opening and handing out cost, and what they leave alone: `get` reads the catalog and no more."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from pathlib import Path

import apsw
import pytest

import casstore
from casstore.storage import access
from tests.kit import Child, contents, everything, noise, script

BIG = 1_100_000
COUNT = 40


@pytest.fixture
def statements(home):
    """statements(store): the list that takes every SQL statement that this thread runs on the store from now on."""

    def trace(store):
        found: list[str] = []
        connection = store._workspace.catalog._connections.get()
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: found.append(event["sql"]))
        return found

    return trace


@pytest.fixture
def many(save):
    return save("m:1", {f"d/{number:02}": noise(200, number) for number in range(COUNT)})


def test_get_leaves_a_changed_directory_alone_and_path_mends_it(store, save, home, statements):
    directory = Path(save("m:1", {"w": noise(BIG)}).path)
    (directory / "note").write_bytes(b"mine")
    (directory / "w").unlink()
    left, ran = everything(home / "models"), statements(store)
    model = store.get("m:1")
    assert (model.size, everything(home / "models")) == (BIG, left)
    assert all(each.startswith("SELECT") for each in ran)
    assert contents(store.get("m:1")) == {"w": noise(BIG)}
    assert not (directory / "note").exists()


def test_get_waits_for_no_lock(store, save):
    directory = Path(save("m:1", {"w": b"w"}).path)
    (directory / "note").write_bytes(b"mine")
    with store._workspace.name_lock("m"):
        getting = threading.Thread(target=store.get, args=("m:1",), daemon=True)
        getting.start()
        getting.join(60)
        assert not getting.is_alive()


def test_get_does_not_look_at_the_directory(store, many, monkeypatch):
    looks = _looks(monkeypatch)
    store.get("m:1")
    assert not looks


def test_each_file_is_looked_at_once_when_its_directory_is_handed_out(store, many, monkeypatch):
    directory = Path(store.get("m:1").path)
    looks = _looks(monkeypatch)
    assert store.get("m:1").path == str(directory)
    wanted = [*(directory / file.path for file in many.files), directory / "model.yaml"]
    assert {path: looks[str(path)] for path in wanted} == dict.fromkeys(wanted, 1)


@pytest.mark.skipif(not access.ignores_modes(), reason="may not write to read-only files: nothing to guard against")
@pytest.mark.parametrize("mode", ["hardlink", "protect"])
def test_hardlinks_are_told_by_the_look_that_the_files_get_anyway(store, save, home, monkeypatch, caplog, mode):
    store.set_setting("link_mode", mode)
    files = {"a": noise(BIG), "b": noise(BIG, 1), "small": b"s"}
    save("m:1", files)
    directory = home / "models/m/1"
    with casstore.Store(home) as opened:
        looks = _looks(monkeypatch)
        assert opened.get("m:1").path == str(directory)
        wanted = {*files, "model.yaml"}
        assert {path: looks[str(directory / path)] for path in wanted} == dict.fromkeys(wanted, 1)
        assert not [path for path in looks if "/objects/" in path]
    assert len(caplog.records) == (directory / "a").stat().st_nlink - 1


def _looks(monkeypatch):
    """How often each path below models/ and objects/loose/ is looked at from now on."""
    looks: Counter[str] = Counter()
    for name in ("stat", "lstat"):
        real = getattr(os, name)

        def look(path, *arguments, real=real, **options):
            if isinstance(path, str | os.PathLike) and any(
                place in os.fspath(path) for place in ("/models/", "/objects/loose/")
            ):
                looks[os.fspath(path)] += 1
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, name, look)
    return looks


def test_the_list_of_files_is_read_once_however_many_are_opened(store, many, statements):
    ran = statements(store)
    model = store.get("m:1")
    for number, file in enumerate(model.files):
        with model.open(file.path) as reader:
            assert reader.read() == noise(200, number)
    assert sum("FROM file" in each for each in ran) == 1
    # To find it, then for each whether it still stands, and a few times where the next of them are.
    assert len(ran) <= COUNT + 12


def test_small_files_are_looked_up_together_when_their_directory_is_made(store, save, statements):
    model = save("m:1", {f"{number:02}": noise(200, number) for number in range(COUNT)}, materialize=False)
    ran = statements(store)
    directory = Path(model.path)
    assert sum("FROM chunk" in each for each in ran) == 1
    assert [(directory / f"{number:02}").read_bytes() for number in range(COUNT)] == [
        *map(noise, [200] * COUNT, range(COUNT))
    ]


def test_a_model_whose_files_have_been_listed_tells_when_it_has_been_deleted(store, many):
    model = store.get("m:1")
    assert len(model.files) == COUNT
    store.delete("m:1")
    for ask in (lambda: model.files, lambda: model.open("d/00")):
        with pytest.raises(casstore.TagNotFound, match="deleted meanwhile"):
            ask()


def test_a_file_that_is_read_in_order_is_looked_up_in_few_statements(store, save, statements):
    data = noise(40 * (1 << 20))
    model = save("m:1", {"w": data}, materialize=False)
    ran = statements(store)
    with model.open("w") as reader:
        assert b"".join(iter(lambda: reader.read(100_000), b"")) == data
    assert sum("FROM chunk" in each for each in ran) <= 6  # of hundreds of chunks


def test_reading_goes_on_while_gc_moves_what_was_looked_up(store, save, age):
    data = noise(20 * (1 << 20))
    save("m:1", {"w": data})
    save("m:2", {"w": b"newer"})
    age(30)
    with store.get("m:1").open("w") as reader:
        head = reader.read(3 << 20)
        assert {"packed"} <= {step.name for step in store.gc(evict_all=True).steps if step.count}
        store._workspace.objects.close()  # what was held open hides nothing
        assert head + reader.read() == data


def test_damage_that_was_read_ahead_is_told_where_it_is_reached(store, save, home, rot):
    data = noise(12 * (1 << 20))
    model = save("m:1", {"w": data}, materialize=False)
    (pack,) = (home / "objects/packs").iterdir()
    rot(pack, 6 * (1 << 20))
    with model.open("w") as reader:
        assert reader.read(4 << 20) == data[: 4 << 20]
        with pytest.raises(casstore.IntegrityError, match="w of m:1 cannot be read"):
            reader.read()
        reader.seek(8 << 20)
        assert reader.read() == data[8 << 20 :]


def test_a_forked_child_reads_on_with_its_parents_reader(store, save):
    data = noise(24 * (1 << 20))
    model = save("m:1", {"w": data})
    with model.open("w") as reader:
        assert reader.read(3 << 20) == data[: 3 << 20]

        def read_on():
            assert reader.read() == data[3 << 20 :]
            reader.close()

        assert Child(read_on).wait() == 0
        assert reader.read() == data[3 << 20 :]


def test_a_file_that_was_read_to_its_end_leaves_no_thread(store, save):
    model = save("m:1", {"w": noise(12 * (1 << 20))})
    before = threading.active_count()
    with model.open("w") as reader:
        while reader.read(1 << 20):
            pass
        assert threading.active_count() == before


def test_readers_that_nobody_closed_end_their_threads(store, save):
    model = save("m:1", {"w": noise(12 * (1 << 20))})
    before = set(threading.enumerate())
    for _ in range(5):
        circle = [model.open("w")]
        circle.append(circle)
        assert circle[0].read(3 << 20)
    del circle
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_a_file_can_be_read_while_the_interpreter_goes_down(store, save, home, tmp_path):
    """Then no thread can be started any more."""
    save("m:1", {"w": noise(12 * (1 << 20))})
    text = """
import atexit, sys
import casstore
model = casstore.Store(sys.argv[1]).get("m:1")
reader = model.open("w")
atexit.register(lambda: print(sum(map(len, iter(lambda: reader.read(1 << 20), b"")))))
"""
    assert script(text, home).stdout.split() == [str(12 << 20)]
