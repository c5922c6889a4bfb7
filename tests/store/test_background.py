"""Saving in the background: in order, whole, and never lost without a word."""

# ruff: noqa: PT012, SIM117 - what is refused is refused at the end of a with block
from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.saving import background
from tests.kit import Child, Leftovers, Save, checkpoint, contents, draft_of, every, noise, plant, script, streamed

FILES = {"w.bin": noise(1_500_000), "sub/small": b"s", "run!": b"#!", "none": None}
SAVED = {"w.bin": noise(1_500_000), "sub/small": b"s", "run": b"#!"}


class Held:
    """Progress that stops whoever saves until it is let go on."""

    def __init__(self) -> None:
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def start(self, *_: object) -> None:
        self.has_begun.set()
        assert self.may_go_on.wait(120)

    def advance(self, *_: object) -> None:
        pass

    def finish(self) -> None:
        pass


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.may_go_on.set()


def hand_over(store: casstore.Store, tag: str, files: Any = FILES, **options: Any) -> casstore.Draft:
    with store.create(tag, background=True, **options) as draft:
        plant(draft.path, files)
    return draft


def hand_over_two(store: casstore.Store, tag: str) -> None:
    """Two of one tag, of which the second cannot be saved: its draft is made before the first is saved."""
    held = Held()
    hand_over(store, tag, progress=held)
    hand_over(store, tag, {"other": b""})
    held.may_go_on.set()


@pytest.mark.parametrize("materialize", [True, False])
def test_the_block_does_not_wait(store: casstore.Store, leftovers: Leftovers, held: Held, materialize) -> None:
    draft = hand_over(
        store, "m:1", labels={"a": "b"}, custom_objects={"o": [1]}, materialize=materialize, progress=held
    )
    assert held.has_begun.wait(120)
    assert not draft.future.done()
    assert store.tags() == []
    held.may_go_on.set()
    model = draft.future.result()
    assert contents(model) == SAVED | {"custom_objects.pkl": model.open("custom_objects.pkl").read()}
    assert (model.labels, model.custom_objects) == ({"a": "b"}, {"o": [1]})
    assert draft.model == store.get("m:1")
    assert draft.is_new
    assert draft.new_bytes > 1_500_000
    assert Path(model.path, "none").is_dir()
    with pytest.raises(casstore.CasstoreError, match="was saved, and is over"):
        draft.commit()
    store.close()
    assert leftovers() == []
    assert os.listdir(store.home / "drafts") == []


def test_what_is_handed_over_is_a_kept_draft_that_is_in_use(store: casstore.Store, held: Held) -> None:
    store.set_setting("keep_days", "0")
    draft = hand_over(store, "m:1", progress=held)
    [pending] = store.drafts()
    assert (str(pending.tag), pending.reason) == ("m:1", "it was to be saved in the background")
    with pytest.raises(casstore.StoreLocked):
        store.save_draft(pending)
    with pytest.raises(casstore.StoreLocked):
        store.remove_draft(pending)
    with casstore.Store(store.home) as other:
        other.gc()
    for use in (draft.commit, draft.discard, lambda: draft.path):
        with pytest.raises(casstore.CasstoreError, match="was handed over to be saved in the background, and is over"):
            use()
    held.may_go_on.set()
    assert contents(draft.model) == SAVED


def test_versions_are_saved_in_the_order_they_were_handed_over(store: casstore.Store, held: Held) -> None:
    steps = [
        hand_over(store, f"m:{step}", checkpoint(step), materialize=False, **({"progress": held} if not step else {}))
        for step in range(3)
    ]
    other = hand_over(store, "other:1").future
    held.may_go_on.set()
    assert other.result().base is None
    assert all(step.future.done() for step in steps)
    assert store.tags() == ["other:1", "m:2", "m:1", "m:0"]
    assert [model.base and str(model.base.tag) for model in store.list("m")] == ["m:1", "m:0", None]
    assert [streamed(step.model) for step in steps] == [checkpoint(step) for step in range(3)]
    assert ["delta" in store.stats(f"m:{step}").encodings for step in range(3)] == [False, True, True]


def test_a_base_that_is_named_is_waited_for(store: casstore.Store, held: Held) -> None:
    hand_over(store, "m:1", progress=held)
    hand_over(store, "n:1", {"a": b"newer"})
    threading.Thread(target=lambda: held.has_begun.wait(120) and held.may_go_on.set()).start()
    draft = hand_over(store, "n:2", {"a": b"newest"}, base="m:1")
    assert str(draft.model.base.tag) == "m:1"  # type: ignore[union-attr]


@pytest.mark.parametrize("parent", ["p", ("p", "finetune"), "p:2", casstore.Tag.parse("p:2")], ids=str)
def test_parents_are_waited_for(store: casstore.Store, save: Save, held: Held, parent) -> None:
    save("p:1", {"a": b"older"})
    hand_over(store, "p:2", progress=held)
    threading.Thread(target=lambda: held.has_begun.wait(120) and held.may_go_on.set()).start()
    draft = hand_over(store, "n:1", parents=iter([parent, "hf://org/base@rev"]))
    assert [str(each.tag or each.uri) for each in draft.model.parents] == ["p:2", "hf://org/base@rev"]


def test_what_a_kept_draft_came_from_is_waited_for(store: casstore.Store, save: Save, held: Held) -> None:
    save("p:1", {"a": b"older"})
    with pytest.raises(ZeroDivisionError), store.create("n:1", keep_on_error=True) as draft:
        plant(draft.path, FILES)
        raise ZeroDivisionError
    [kept] = store.drafts()
    hand_over(store, "p:2", progress=held)
    hand_over(store, "q:1")
    threading.Thread(target=lambda: held.has_begun.wait(120) and held.may_go_on.set()).start()
    model = store.save_draft(kept, base="p", parents=["q"])
    assert [str(each.tag) for each in model.parents] == ["p:2", "q:1"]


def test_what_is_saved_is_what_stood_there_then(store: casstore.Store, held: Held, tmp_path: Path) -> None:
    outside = plant(tmp_path / "out", {"w": b"as it was"}) / "w"
    with store.create("m:1", metadata={"history": [1]}, background=True, progress=held) as draft:
        history = draft.metadata["history"]
        os.link(outside, f"{draft.path}/w")
    outside.write_bytes(b"written over in place")
    history.append(2)
    held.may_go_on.set()
    assert contents(draft.model) == {"w": b"as it was"}
    assert (draft.model.metadata, draft.model.labels) == ({"history": [1]}, {})


def test_who_is_too_far_ahead_waits(store: casstore.Store, held: Held) -> None:
    most = background.MOST_UNFINISHED
    futures = [hand_over(store, f"m:{turn}", {"a": b"%d" % turn}, progress=held).future for turn in range(most)]
    unfinished = []

    def go_on():
        futures.append(hand_over(store, "m:last", {"a": b"last"}).future)
        unfinished.append(len(background._queue._jobs))

    thread = threading.Thread(target=go_on)
    thread.start()
    while len(background._queue._jobs) <= most:
        time.sleep(0.001)
    assert unfinished == []
    held.may_go_on.set()
    thread.join()
    assert unfinished[0] <= most
    assert len({str(future.result().tag) for future in futures}) == most + 1


def test_policies_are_applied(store: casstore.Store) -> None:
    store.set_policy("m", keep_last=2)
    for turn in range(4):
        draft = hand_over(store, f"m:{turn}", {"a": b"%d" % turn})
    assert draft.future.result()
    assert store.tags() == ["m:3", "m:2"]


def test_the_very_same_version_may_be_there(store: casstore.Store, save: Save) -> None:
    save("m:1", {"a": b"1"})
    draft = hand_over(store, "m:1", {"a": b"1"}, exist_ok=True)
    assert draft.model.tag == draft.tag
    assert not draft.is_new
    assert store.drafts() == []


def test_an_error_reaches_who_asks_and_the_draft_is_kept(
    store: casstore.Store, save: Save, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    hand_over(store, "m:1", progress=held)
    twin = hand_over(store, "m:1")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(twin.future.exception()))
    thread.start()
    while not twin.future.is_listened_to:  # type: ignore[attr-defined]
        time.sleep(0.001)
    held.may_go_on.set()
    thread.join()
    [error] = seen
    assert isinstance(error, casstore.TagExists)
    with pytest.raises(casstore.TagExists):
        _ = twin.model
    [kept] = store.drafts()
    assert kept.path == draft_of(error)
    assert kept.reason == f"TagExists: {str(error).partition('; the draft')[0]}"
    assert f"casstore save m --draft {kept.id}" in str(error)
    assert [said for said in caplog.messages if "background" in said] == []
    store.close()  # and raises nothing
    with casstore.Store(store.home) as again:
        assert contents(again.save_draft(kept, "m:2")) == SAVED


def test_an_error_that_nobody_asked_for_is_logged_and_raised_by_close(
    home: Path, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    store = casstore.Store(home, auto_gc=False)
    hand_over_two(store, "m:1")
    with pytest.raises(casstore.TagExists, match="the draft's files are kept in"):
        store.close()
    [said] = [said for said in caplog.messages if "background" in said]
    assert said.startswith("m:1 could not be saved in the background: m:1 ")
    assert "the draft's files are kept in" in said
    store.close()
    with pytest.raises(ZeroDivisionError), casstore.Store(home, auto_gc=False) as store:
        hand_over_two(store, "m:2")
        raise ZeroDivisionError
    with pytest.raises(casstore.TagExists), casstore.Store(home, auto_gc=False) as store:
        hand_over_two(store, "m:3")
    with casstore.Store(home) as store:
        assert store.tags() == ["m:3", "m:2", "m:1"]
        assert len(store.drafts()) == 3
        assert contents(store.get("m:1")) == SAVED


def test_what_fails_once_it_is_saved_is_no_kept_draft(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source):
        remove(source)
        raise MemoryError

    module = import_module("casstore.actions.saving.drafts")
    remove = module.remove_source
    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_source", refuse)
        error = hand_over(store, "m:1").future.exception()
    assert isinstance(error, MemoryError)
    assert not hasattr(error, "draft_path")
    assert contents(store.get("m:1")) == SAVED
    assert store.drafts() == []


@pytest.mark.parametrize("killed_at", ["_is_removed", "_after"])
def test_a_kill_after_the_commit_leaves_no_kept_draft(store: casstore.Store, killed_at) -> None:
    """Amid the removal of its files, or before that has begun."""
    store.close()

    def work():
        for name in ("casstore.actions.sources.source", "casstore.actions.saving.save"):
            if hasattr(module := import_module(name), killed_at):
                setattr(module, killed_at, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        hand_over(casstore.Store(store.home), "m:1").future.result()

    assert Child(work).wait() == -signal.SIGKILL
    with casstore.Store(store.home, auto_gc=False) as again:
        assert contents(again.get("m:1")) == SAVED
        assert again.drafts() == []
        again.gc()
        assert os.listdir(store.home / "drafts") == []


def test_what_is_kept_shares_no_files(store: casstore.Store, held: Held, tmp_path: Path) -> None:
    hand_over(store, "m:1", progress=held)
    twin = hand_over(store, "m:1", {"other": b""})
    stored = plant(tmp_path / "stored", {"w": b"stored"}) / "w"
    os.link(stored, Path(store.drafts()[1].path, "w"))  # as where it is unsure whether the version was committed
    held.may_go_on.set()
    assert isinstance(twin.future.exception(), casstore.TagExists)
    [kept] = store.drafts()
    Path(kept.path, "w").write_bytes(b"edited")
    assert stored.read_bytes() == b"stored"
    assert contents(store.save_draft(kept, "m:2")) == {"other": b"", "w": b"edited"}


def test_what_cannot_be_recorded_is_told_at_once(store: casstore.Store) -> None:
    with pytest.raises(casstore.InvalidMetadata) as caught:
        with store.create("m:1", background=True) as draft:
            plant(draft.path, FILES)
            draft.metadata["loss"] = loss = []
            loss.append(object())
    [kept] = store.drafts()
    assert draft_of(caught.value) == kept.path
    with pytest.raises(casstore.CasstoreError, match="not being saved in the background"):
        _ = draft.future
    with pytest.raises(ZeroDivisionError), store.create("m:2", background=True) as draft:
        plant(draft.path, FILES)
        raise ZeroDivisionError
    assert (store.tags(), store.drafts()) == ([], [kept])


@pytest.mark.parametrize("is_later", [True, False])
@pytest.mark.parametrize("other", [(), (None, "/to.pack")], ids=["one file", "two"])
def test_a_full_disk_is_named_before_the_advice(store: casstore.Store, is_later, other) -> None:
    class Full(Held):
        def start(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/from.pack", *other)

    with pytest.raises(OSError, match="No space left") as caught:
        with store.create("m:1", background=is_later, progress=Full()) as draft:
            plant(draft.path, FILES)
        draft.future.result()
    [kept] = store.drafts()
    place = "'/from.pack' -> '/to.pack'" if other else "'/from.pack'"
    said = f"[Errno 28] No space left on device: {place}; the draft's files are kept in {kept.path}: `casstore save"
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("lists what is kept")
    assert caught.value.errno == errno.ENOSPC


def test_a_callback_may_hand_over_more(store: casstore.Store) -> None:
    more: list[casstore.Draft] = []

    def call(_):
        more.extend(hand_over(store, f"n:{turn}", {"a": b"1"}) for turn in range(background.MOST_UNFINISHED + 2))

    draft = store.create("m:1")
    plant(draft.path, FILES)
    future = draft.commit_async()
    future.add_done_callback(call)
    assert not future.cancel()
    future.result()
    store.close()
    with casstore.Store(store.home) as again:
        assert len(again.tags()) == background.MOST_UNFINISHED + 3


@pytest.mark.parametrize("is_saved", [True, False])
def test_what_is_raised_by_who_is_told_stops_nothing(
    store: casstore.Store, held: Held, caplog: pytest.LogCaptureFixture, is_saved
) -> None:
    def call(_):
        raise SystemExit(3)

    hand_over(store, "m:1", {"a": b"1"}, progress=held)
    draft = hand_over(store, "n:1" if is_saved else "m:1", {"a": b"2"})
    last = hand_over(store, "m:2", {"a": b"3"})
    draft.future.add_done_callback(call)
    held.may_go_on.set()
    assert contents(last.future.result(20)) == {"a": b"3"}
    assert f"has raised when told how the save of {draft.tag} ended" in caplog.text
    if is_saved:
        store.close()
        assert contents(draft.model) == {"a": b"2"}
    else:
        assert "m:1 could not be saved in the background" in caplog.text
        with pytest.raises(casstore.TagExists):
            store.close()


def test_a_log_that_fails_stops_nothing(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_):
        raise RuntimeError

    monkeypatch.setattr(logging.getLogger("casstore.actions.saving.background"), "filters", [refuse])
    hand_over(store, "m:1")
    twin = hand_over(store, "m:1", {"other": b""})
    assert contents(hand_over(store, "m:2").future.result(20)) == SAVED
    assert isinstance(twin.future.exception(20), casstore.TagExists)


def test_who_is_not_told_of_an_error_gets_it_from_close(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(future, timeout):
        wait([future])
        raise TimeoutError

    store = casstore.Store(home, auto_gc=False)
    hand_over(store, "m:1")
    twin = hand_over(store, "m:1", {"other": b""})
    with monkeypatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(Future, "result", too_late)
        twin.future.result(1)
    with pytest.raises(casstore.TagExists):
        store.close()


def test_a_forked_child_waits_for_nothing(store: casstore.Store, held: Held) -> None:
    draft = hand_over(store, "m:1", progress=held)
    assert held.has_begun.wait(120)

    def work():
        for ask in (draft.future.result, draft.future.exception, lambda: draft.model):
            with pytest.raises(casstore.CasstoreError, match="the process that this one was forked from"):
                ask()
        background._queue.finish_all()

    assert Child(work).wait() == 0
    held.may_go_on.set()
    assert contents(draft.model) == SAVED


_HAND_OVER = """
import sys, threading, casstore
from pathlib import Path

class Held:
    has_begun = threading.Event()
    def start(self, step, total_bytes):
        self.has_begun.set()
        threading.Event().wait()
    def advance(self, done_bytes): pass
    def finish(self): pass

def hand_over(tag, size=9_000_000, **options):
    with store.create(tag, background=True, **options) as draft:
        Path(draft.path, "w").write_bytes((tag.encode() * size)[:size])

store = casstore.Store(sys.argv[1], auto_gc=False)
"""


@pytest.mark.parametrize("materialize", [True, False])
def test_a_process_ends_when_all_is_saved(home: Path, materialize) -> None:
    code = f"for turn in range(3): hand_over(f'm:{{turn}}', materialize={materialize})\nraise SystemExit(7)"
    done = script(_HAND_OVER + code, home)
    assert (done.returncode, done.stderr) == (7, "")
    with casstore.Store(home) as store:
        assert store.tags() == ["m:2", "m:1", "m:0"]
        assert contents(store.get("m:2")) == {"w": b"m:2" * 3_000_000}
        assert store.drafts() == []


def test_a_child_of_multiprocessing_ends_when_all_is_saved(home: Path) -> None:
    code = """
import multiprocessing
store.close()
def work():
    global store
    store = casstore.Store(sys.argv[1], auto_gc=False)
    hand_over("m:1")
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
sys.exit(child.exitcode)
"""
    done = script(_HAND_OVER + code, home)
    assert (done.returncode, done.stderr) == (0, "")
    with casstore.Store(home) as store:
        assert contents(store.get("m:1")) == {"w": b"m:1" * 3_000_000}


def test_a_thread_that_outlives_the_program_may_hand_over(home: Path, tmp_path: Path) -> None:
    code = """
store.save("m:0", sys.argv[2])
def work():
    threading.main_thread().join()
    hand_over("m:1", 1000)
    hand_over("m:2", 1000)
threading.Thread(target=work).start()
"""
    done = script(_HAND_OVER + code, home, plant(tmp_path / "source", {"w": b"0"}))
    assert (done.returncode, done.stderr) == (0, "")
    with casstore.Store(home) as store:
        assert store.tags() == ["m:2", "m:1", "m:0"]
        assert contents(store.get("m:1")) == {"w": (b"m:1" * 1000)[:1000]}
        assert store.drafts() == []


def test_an_error_at_exit_is_printed(home: Path) -> None:
    done = script(_HAND_OVER + "for _ in range(2): hand_over('m:1')", home, check=False)
    assert done.returncode == 120
    with casstore.Store(home) as store:
        [kept] = store.drafts()
        assert done.stderr.startswith("m:1 could not be saved in the background: m:1 ")
        assert f"the draft's files are kept in {kept.path}" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 120),
        ("sys.exit(0)", 120),
        ("raise ValueError", 1),
        ("twin.future.exception()", 0),
        ("wait([twin.future])", 120),
        ("store.close()", 1),
    ],
)
def test_what_was_not_saved_shows_in_the_exit_status(home: Path, end, status) -> None:
    """Unless the program was told. Everything else of the interpreter's end goes on as ever."""
    code = f"""
import atexit
from concurrent.futures import wait
class Torn:
    def __del__(self): sys.__stdout__.write("torn down\\n")
torn = Torn()
def hand_over(tag, content):
    with store.create(tag, background=True) as draft:
        Path(draft.path, "w").write_bytes(content)
    return draft
atexit.register(print, "hook")
print("begin", file=sys.stderr)
hand_over("m:1", b"1")
twin = hand_over("m:1", b"2")
{end}
"""
    done = script(_HAND_OVER + code, home, check=False)
    assert (done.returncode, done.stdout) == (status, "hook\ntorn down\n"), done.stderr
    assert done.stderr.startswith("begin\n")
    assert "not everything was saved" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(("end", "status"), [("", -signal.SIGINT), ("sys.exit(0)", 120), ("sys.exit(7)", 120)])
def test_an_interrupt_of_the_waiting_shows_in_the_exit_status(home: Path, end, status) -> None:
    """What was saved by then is not said not to be."""
    code = f"""
import atexit, os, signal
hand_over("m:0", 10)
def interrupted():
    threading.Thread(target=lambda: Held.has_begun.wait() and os.kill(os.getpid(), signal.SIGINT), daemon=True).start()
threading._register_atexit(interrupted)
atexit.register(print, "hook")
hand_over("m:1", 10, progress=Held())
hand_over("m:2", 10)
{end}
"""
    done = script(_HAND_OVER + code, home, check=False)
    assert (done.returncode, done.stdout) == (status, "hook\n"), done.stderr
    assert "interrupted before these were done: m:1, m:2; `casstore drafts`" in done.stderr
    with casstore.Store(home, auto_gc=False) as store:
        assert store.tags() == ["m:0"]
        assert [str(draft.tag) for draft in store.drafts()] == ["m:1", "m:2"]


def _until_held(home: Path, code: str = "") -> subprocess.Popen[str]:
    """A process that is saving one version, has handed over another, and then runs the code."""
    wait = "hand_over('m:1', progress=Held())\nhand_over('m:2')\nHeld.has_begun.wait()\nprint('held', flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", _HAND_OVER + wait + code, str(home)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("is_saving", [True, False])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_had_handed_over_is_kept(home: Path, number, is_saving) -> None:
    with _until_held(home, "Held().start(None, None)") as process:
        process.send_signal(number)
        assert process.wait() == -number
    with casstore.Store(home, auto_gc=False) as store:
        store.gc()
        assert os.listdir(home / "sessions") == []
        kept = store.drafts()
        assert [str(draft.tag) for draft in kept] == ["m:1", "m:2"]
        draft = kept[not is_saving]
        assert contents(store.save_draft(draft)) == {"w": str(draft.tag).encode() * 3_000_000}
        assert store.verify().is_sound


def test_what_was_saved_since_a_draft_was_handed_over_is_newer(home: Path) -> None:
    with _until_held(home, "Held().start(None, None)") as process:
        process.kill()
    with casstore.Store(home) as store:
        store.set_policy("m", keep_last=2)
        for version in "345":
            with store.create(f"m:{version}") as draft:
                plant(draft.path, {"w": version.encode()})
        first, second = store.drafts()
        model = store.save_draft(second)
        assert model.created_at == second.kept_at
        assert store.tags() == ["m:5", "m:4", "m:2"]
        assert {event.kind for event in store.events()} <= {"saved", "policy set", "deleted"}
        assert str(store.get("m").tag) == "m:5"
        store.save_draft(first)
        assert store.tags() == ["m:5", "m:4", "m:1"]


def test_what_is_saved_late_counts_as_made_when_it_was_handed_over(store: casstore.Store, held: Held) -> None:
    first = hand_over(store, "m:1", progress=held)
    second = hand_over(store, "m:2", {"a": b"2"})
    times = [draft.kept_at for draft in store.drafts()]
    with casstore.Store(store.home) as other, other.create("m:3") as draft:
        plant(draft.path, {"a": b"3"})
    held.may_go_on.set()
    assert [draft.future.result().created_at for draft in (first, second)] == times
    assert store.tags() == ["m:3", "m:2", "m:1"]


def test_ctrl_c_at_exit_ends_the_waiting(home: Path) -> None:
    with _until_held(home) as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)  # one before the end comes to the program itself
            time.sleep(0.05)
        assert process.stderr is not None
        said = "interrupted before these were done: m:1, m:2; `casstore drafts` lists those not saved\n"
        assert process.stderr.read().count(said) == 1
        assert process.returncode == -signal.SIGINT
    with casstore.Store(home, auto_gc=False) as store:
        assert store.tags() == []
        for draft in store.drafts():
            assert contents(store.save_draft(draft)) == {"w": str(draft.tag).encode() * 3_000_000}
        assert store.tags() == ["m:2", "m:1"]


def _interrupt_at(stop: int, action: Any) -> bool:
    """Run it with a KeyboardInterrupt at the call of that number within casstore; returns whether there are as many."""
    count = 0

    def trace(frame: Any, *_: object) -> None:
        nonlocal count
        if "/casstore/" in frame.f_code.co_filename and frame.f_code.co_name != "__del__":
            count += 1
            if count == stop:
                raise KeyboardInterrupt

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        action()
    except KeyboardInterrupt:
        assert count >= stop
    finally:
        sys.settrace(before)
    return count >= stop


@pytest.mark.parametrize("has_started", [True, False])
def test_ctrl_c_while_the_thread_is_started(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, has_started
) -> None:
    start = threading.Thread.start

    def interrupted(thread):
        if has_started:
            start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threading.Thread, "start", interrupted)
        hand_over(store, "m:1")
    assert background.finish(store._workspace) is None
    assert contents(store.get("m:1")) == SAVED


@pytest.mark.crash
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where a generator was being closed
def test_ctrl_c_while_a_draft_is_handed_over_loses_nothing(store: casstore.Store, leftovers: Leftovers) -> None:
    for stop in range(1, 100_000, every(9)):
        draft = store.create(f"m:{stop}")
        plant(draft.path, {"w": b"%d" % stop})
        was_reached = _interrupt_at(stop, draft.commit_async)
        del draft
        gc.collect()
        background.finish(store._workspace)
        kept = store.drafts()
        assert len(kept) + store.exists(f"m:{stop}") == 1, stop
        for each in kept:
            assert contents(store.save_draft(each)) == {"w": b"%d" % stop}
        if not was_reached:
            break
    assert not was_reached
    store.close()
    with casstore.Store(store.home, auto_gc=False) as again:
        again.gc()
    assert leftovers() == []
