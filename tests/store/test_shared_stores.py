"""A store that several users work in: what each makes must stay everybody's, whatever their umask, root included."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import adopt
from casstore.cli.main import run
from tests.kit import Child

ONE, TWO, GROUP = 61_011, 61_012, 61_013
pytestmark = [pytest.mark.crash, pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")]


@pytest.fixture
def place():
    """A directory that every user reaches; pytest's own are closed to all others."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


def become(user, mask, groups):
    if user:
        os.setgroups(groups)
        os.setgid(user)
        os.setuid(user)
    os.umask(mask)


@pytest.fixture(autouse=True)
def _no_quiet_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adopt, "QUIET_NS", 0)


@pytest.fixture(scope="module", autouse=True)
def _all_is_imported():
    """Where Python is below root's own directory, other users can import nothing more."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch, "store")
        every_verb(home, "a", "b", 1)()
        casstore.Store.rebuild_catalog(home)
        for line in (["list"], ["nothing"], ["gc"], ["init", "--json"], ["path", "x"]):
            Made(0, lambda line=line: run([*line, "--home", str(home)]))


@pytest.fixture
def run_as():
    """run_as(user, function, mask=0o022): in a process of that user, who is in the group; of root with user 0."""

    def run(user, function, mask=0o022):
        made = Made(user, function, mask)
        assert made.code == 0, made.stderr

    return run


class Made:
    """What a forked process of that user did: its exit code, and what it wrote."""

    def __init__(self, user, function, mask=0o022, groups=(GROUP,)):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:

            def work():
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), write_through=True)
                sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), write_through=True)
                become(user, mask, groups)
                code = function()
                return code if isinstance(code, int) else 0

            self.code = Child(work).wait()
            self.stdout, self.stderr = (os.pread(each.fileno(), 1 << 20, 0).decode() for each in (out, err))


def command(user, *words, groups=(GROUP,)):
    """The `casstore` command line in a process of that user."""
    return Made(user, lambda: run([*map(str, words)]), groups=groups)


def made_by_hand(home, run_as):
    """Set up with chmod, as README said: nothing but the mode tells."""
    home.mkdir()
    os.chown(home, ONE, GROUP)
    home.chmod(0o2770)


def made_by_init(home, run_as):
    home.mkdir()
    os.chown(home, ONE, ONE)
    run_as(ONE, lambda: casstore.Store.init(home, shared="group", group=str(GROUP)), 0o077)


def shared_later(home, run_as):
    """A private store of one user, with versions, which is shared then."""
    home.mkdir(mode=0o700)
    os.chown(home, ONE, ONE)

    def begin():
        fill(home, "old:1", 1)
        fill(home, "old:2", 2, materialize=False)
        with casstore.Store(home, auto_gc=False) as store:
            store.pin("old:1")
            store.gc()

    run_as(ONE, begin, 0o077)
    run_as(ONE, lambda: casstore.Store.init(home, shared="group", group=str(GROUP)), 0o077)


def content(seed):
    return random.Random(seed).randbytes(300_000)


def fill(home, tag, seed, **options):
    with casstore.Store(home, auto_gc=False) as store, store.create(tag, **options) as draft:
        below = Path(draft.path, "few/deep")
        below.mkdir(parents=True)
        (below / "small").write_bytes(b"small %d" % seed)
        (below / "run").write_bytes(b"#!/bin/sh\n")
        (below / "run").chmod(0o700)
        Path(draft.path, "w").write_bytes(content(seed))


def every_verb(home, mine, theirs, seed):
    """All that changes a store, on versions of one's own and of somebody else's."""

    def work():
        fill(home, f"{mine}:1", seed)
        fill(home, f"{mine}:2", seed + 1, materialize=False)
        fill(home, f"{theirs}:by-{mine}", seed + 2)
        with tempfile.TemporaryDirectory() as scratch, casstore.Store(home, auto_gc=False) as store:
            moved = Path(scratch, "moved")
            (moved / "sub").mkdir(parents=True)
            (moved / "sub/w").write_bytes(content(seed + 3))
            store.save(f"{mine}:3", moved, move=True, custom_objects={"a": 1})
            archive = store.export(f"{mine}:1", Path(scratch, "x.tar"))
            store.import_archive(archive, as_tag=f"{mine}:4")
            store.import_archive(store.export([f"{mine}:1"], Path(scratch, "x.casmodel")), as_tag=f"{mine}:5")
            tree = Path(store.home, f"models/{mine}/tree")
            shutil.copytree(store.get(f"{mine}:1").path, tree)
            tree.chmod(0o755)
            text = (tree / "model.yaml").read_text(encoding="utf-8")
            (tree / "model.yaml").chmod(0o644)
            (tree / "model.yaml").write_text(text.replace("version: '1'", "version: tree"), encoding="utf-8")
            store.sync_tree()
            for each in store.list():
                assert Path(each.path, "model.yaml").is_file()
                with each.open("w" if each.tag.version != "3" else "sub/w") as file:
                    assert len(file.read()) == 300_000
            store.pin(f"{mine}:1")
            store.set_setting("keep_days", "3")
            store.set_setting("keep_days", None)
        with casstore.Store(home, auto_gc=False) as store:
            store.gc(evict_all=True)
            assert store.verify().is_sound
            assert store.repair().is_sound
            for tag in [*store.tags()]:
                Path(store.get(tag).path).stat()
        with casstore.Store(home, auto_gc=False) as store:
            for tag in [*store.tags()]:
                if tag.startswith(theirs) or tag.endswith(":1"):
                    store.delete(tag)
            store.gc(evict_all=True)
            assert store.verify().is_sound
            assert not any(step.count for step in store.gc().steps)

    return work


def daily_work(home, mine, theirs, seed):
    """What is done every day: save, open, delete, also somebody else's versions, and gc."""

    def work():
        fill(home, f"{mine}:1", seed)
        with casstore.Store(home, auto_gc=False) as store:
            for tag in [*store.tags()]:
                assert Path(store.get(tag).path, "model.yaml").is_file()
        with casstore.Store(home, auto_gc=False) as store:
            store.gc(evict_all=True)
            for tag in [*store.tags()]:
                if tag.startswith(theirs):
                    store.delete(tag)
            store.gc()
            assert store.verify().is_sound

    return work


SET_UPS = [made_by_hand, made_by_init, shared_later]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("set_up", "masks"),
    [
        (made_by_hand, (0o022, 0o077)),
        (made_by_hand, (0o077, 0o022)),
        (made_by_init, (0o077, 0o022)),
        (shared_later, (0o022, 0o077)),
    ],
)
def test_members_do_everything_to_what_others_made(place, run_as, set_up, masks) -> None:
    home = place / "store"
    set_up(home, run_as)
    run_as(ONE, every_verb(home, "one", "two", 1), masks[0])
    run_as(TWO, every_verb(home, "two", "one", 5), masks[1])
    run_as(0, daily_work(home, "root", "one", 9), 0o077)
    run_as(TWO, lambda: casstore.Store.rebuild_catalog(home), masks[1])
    run_as(ONE, daily_work(home, "one", "root", 13), masks[0])
    run_as(TWO, daily_work(home, "two", "one", 17), masks[1])
    assert closed(home, GROUP) == []


def closed(home, group):
    """What the members of the group may not use as its owner may."""
    found = []
    for path in [home, *home.rglob("*")]:
        status = path.lstat()
        owner, members, others = (stat.S_IMODE(status.st_mode) >> bits & 7 for bits in (6, 3, 0))
        may = (members if status.st_gid == group else others) & owner
        is_right = may == owner and (not path.is_dir() or status.st_mode & stat.S_ISGID)
        if not is_right or (status.st_gid != group and path.is_dir()):
            found.append((str(path.relative_to(home)), oct(status.st_mode), status.st_gid))
    return found


def test_what_is_made_follows_the_home(place, run_as) -> None:
    """Nobody else gets in, whatever the umask allows; whoever may, by the home's mode, whatever the umask forbids."""
    for mode, directory, stored, written in ((0o2770, 0o2770, 0o440, 0o660), (0o2775, 0o2775, 0o444, 0o664)):
        for mask in (0, 0o077):
            home = place / f"{mode:o}-{mask:o}"
            home.mkdir()
            os.chown(home, TWO, GROUP)
            home.chmod(mode)
            run_as(ONE, lambda home=home: fill(home, "m:1", 1), mask)
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*")}
            assert {path.stat().st_gid for path in modes} == {GROUP}
            assert {modes[path] for path in modes if path.is_dir()} == {directory}
            assert modes[home / "catalog.db"] == modes[home / "locks/m.lock"] == written
            assert modes[home / "models/m/latest"] == written
            assert modes[home / "models/m/1/few/deep/run"] == stored | stored >> 2
            kept = [*home.glob("objects/*/**/*"), home / "models/m/1/w", *home.glob("manifests/m/*")]
            assert {modes[path] for path in kept if path.is_file()} == {stored}


@pytest.mark.crash
def test_root_leaves_a_users_store_usable(place, run_as) -> None:
    home = place / "store"
    home.mkdir(mode=0o700)
    os.chown(home, ONE, ONE)
    run_as(0, every_verb(home, "root", "one", 1), 0o077)  # makes it, too
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in home.rglob("*")} == {(ONE, ONE)}
    run_as(ONE, every_verb(home, "one", "root", 5))
    run_as(0, every_verb(home, "root", "one", 9))
    run_as(0, lambda: casstore.Store.rebuild_catalog(home), 0o077)
    assert {path.lstat().st_uid for path in home.rglob("*")} == {ONE}
    run_as(ONE, every_verb(home, "one", "root", 13))


def test_root_keeps_what_it_fails_to_move(place) -> None:
    home = place / "store"
    home.mkdir(mode=0o700)
    os.chown(home, ONE, ONE)
    source = place / "source"
    source.mkdir()
    (source / "w").write_bytes(content(1))
    os.chown(source / "w", 0, GROUP)
    (source / "w").chmod(0o640)
    fill(home, "m:1", 2)
    with casstore.Store(home) as store, pytest.raises(casstore.TagExists):
        store.save("m:1", source, move=True)
    status = (source / "w").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, GROUP, 0o640)


def test_root_gives_away_only_what_it_makes(place, run_as) -> None:
    """Whose store it is can put links into it, which lead root elsewhere."""
    home, treasure = place / "store", place / "treasure"
    home.mkdir(mode=0o700)
    os.chown(home, ONE, ONE)
    run_as(ONE, lambda: fill(home, "m:1", 1))
    treasure.mkdir(mode=0o700)
    (treasure / "secret").write_bytes(b"secret")
    (treasure / "secret").chmod(0o600)
    (home / "models/t").symlink_to(treasure)
    (home / "locks/t.lock").symlink_to(treasure / "secret")
    (home / "manifests/t").symlink_to(treasure)

    def work():
        fill(home, "t:1", 2)
        casstore.Store.init(home, shared="group", group=str(GROUP))

    run_as(0, work)
    for path, mode in ((treasure, 0o700), (treasure / "secret", 0o600)):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, mode)


def test_a_running_process_sees_that_its_store_has_been_shared(place, run_as) -> None:
    home = place / "store"
    home.mkdir(mode=0o700)
    os.chown(home, ONE, ONE)
    ready, say_ready = os.pipe()
    go, say_go = os.pipe()

    def stay():
        become(ONE, 0o077, [GROUP])
        with casstore.Store(home, auto_gc=False) as store:
            os.write(say_ready, b".")
            os.read(go, 1)
            with store.create("m:1") as draft:
                Path(draft.path, "few").mkdir()
                Path(draft.path, "few/small").write_bytes(b"small")
                Path(draft.path, "w").write_bytes(content(1))

    running = Child(stay)
    os.read(ready, 1)
    try:
        run_as(ONE, lambda: casstore.Store.init(home, shared="group", group=str(GROUP)))
    finally:
        os.write(say_go, b".")
    assert running.wait() == 0
    run_as(TWO, daily_work(home, "two", "m", 2))


def killed_draft(home, user, mask):
    """A process of that user that is killed while it writes into directories of its own making."""
    ready, say_ready = os.pipe()

    def work():
        become(user, mask, [GROUP])
        with casstore.Store(home, auto_gc=False) as store, store.create("m:1") as draft:
            Path(draft.path, "sub/deep").mkdir(parents=True)
            Path(draft.path, "sub/deep/w").write_bytes(b"w")
            os.write(say_ready, b".")
            signal.pause()

    process = Child(work)
    os.close(say_ready)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    process.kill()


@pytest.mark.crash
@pytest.mark.parametrize("mask", [0o022, 0o077])
@pytest.mark.parametrize("set_up", SET_UPS)
def test_a_killed_members_draft_keeps_nobody_from_collecting(place, run_as, set_up, mask) -> None:
    home = place / "store"
    set_up(home, run_as)
    killed_draft(home, TWO, mask)
    assert os.listdir(home / "sessions")
    run_as(ONE, daily_work(home, "one", "two", 1))
    run_as(TWO, daily_work(home, "two", "one", 5), mask)
    assert os.listdir(home / "sessions") == []


def told(error):
    """The commands that a message names."""
    return re.findall(r"`([^`]+)`", error)


def run_told(line, user):
    """Type what a message says, as that user or, after sudo, as root."""
    if line.startswith("sudo "):
        line, user = line.removeprefix("sudo "), 0
    words = shlex.split(line)
    if words[0] == "casstore":
        made = command(user, *words[1:])
    else:
        made = Made(user, lambda: os.execvp("bash", ["bash", "-c", line]))
    assert made.code == 0, made.stderr


VERBS = [
    ("list",),
    ("path", "m:1"),
    ("gc", "--evict-all"),
    ("save", "m:2", "SOURCE"),
    ("delete", "m:1", "--yes"),
    ("gc",),
]


# All of them are one rule; the first two stand for them in the first tier.
OTHER_PARTS = [
    pytest.param(part, marks=pytest.mark.crash) for part in ("manifests/m", "objects/packs", "sessions", "locks")
]


@pytest.mark.parametrize("part", ["models/m", "catalog.db", *OTHER_PARTS, pytest.param(".", marks=pytest.mark.crash)])
def test_what_root_left_in_a_users_store_is_named_with_its_remedy(place, run_as, part) -> None:
    """As earlier releases of casstore did, when root had used it."""
    home, source = place / "store", place / "source"
    home.mkdir(mode=0o700)
    os.chown(home, ONE, ONE)
    source.mkdir()
    (source / "w").write_bytes(content(3))
    run_as(ONE, lambda: fill(home, "m:1", 1))
    for path in [home / part, *([*(home / part).rglob("*")] if (home / part).is_dir() else [])]:
        os.chown(path, 0, 0)
    failed = []
    for verb in VERBS:
        done = command(ONE, *(source if word == "SOURCE" else word for word in verb), "--home", home)
        assert "Traceback" not in done.stderr
        if done.code:
            failed.append(verb[0])
            assert "belongs to root" in done.stderr, done.stderr
            remedy = told(done.stderr)
    assert failed or part in ("objects/packs", "locks"), "nothing is in the way then"
    if failed:
        run_told(remedy[0], ONE)
    run_as(ONE, daily_work(home, "one", "m", 5))


@pytest.mark.parametrize("part", ["models/m", "catalog.db", *OTHER_PARTS])
def test_what_a_member_has_closed_is_named_with_its_remedy(place, run_as, part) -> None:
    home, source = place / "store", place / "source"
    made_by_hand(home, run_as)
    source.mkdir()
    (source / "w").write_bytes(content(3))
    run_as(TWO, lambda: fill(home, "m:1", 1))
    target = home / part
    os.chown(target, TWO, TWO)
    target.chmod(0o755 if target.is_dir() else 0o644)
    remedies = []
    for verb in VERBS:
        done = command(ONE, *(source if word == "SOURCE" else word for word in verb), "--home", home)
        assert "Traceback" not in done.stderr
        if done.code:
            print(verb[0], done.stderr)
            assert f"{target} belongs to {TWO}" in done.stderr
            remedies.append(told(done.stderr))
    assert remedies or part == "objects/packs", "nothing has been packed here"
    if remedies:
        by_hand, by_init = remedies[0][:2]
        if part == "locks":
            run_told(by_init, TWO)
        else:
            run_told(by_hand, TWO)
    run_as(ONE, daily_work(home, "one", "m", 5))


def test_who_is_not_a_member_is_told_so(place, run_as) -> None:
    home = place / "store"
    made_by_hand(home, run_as)
    run_as(ONE, lambda: fill(home, "m:1", 1))
    done = command(TWO, "list", "--home", home, groups=())
    print(done.stderr)
    assert done.code == 1
    assert "is not a member" in done.stderr
    casstore.Store.init(home, shared="all")
    assert command(TWO, "list", "--home", home, groups=()).code == 0


def test_init_makes_a_store_and_says_what_it_is(place) -> None:
    home = place / "store"
    done = command(0, "init", "--home", home)
    assert done.stdout == f"{home} is a new store, for its owner\n"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert command(0, "init", "--home", home).stdout == f"{home} is a store, for its owner\n"
    done = command(0, "init", "--shared", "--group", GROUP, "--home", home)
    assert f"{home} is a store, shared with the group {GROUP}\n" in done.stdout
    assert (home.stat().st_gid, stat.S_IMODE(home.stat().st_mode)) == (GROUP, 0o2770)
    again = json.loads(command(0, "init", "--shared", "--json", "--home", home).stdout)
    assert again == {
        "home": str(home), "is_new": False, "shared": "group", "group": str(GROUP), "opened": 0, "left": [],
    }  # fmt: skip
    done = command(0, "init", "--shared=all", "--home", home)
    assert "everybody may read" in done.stdout
    assert stat.S_IMODE(home.stat().st_mode) == 0o2775


def test_init_shared_reopens_what_members_have_closed(place, run_as) -> None:
    home = place / "store"
    made_by_init(home, run_as)
    run_as(ONE, lambda: fill(home, "m:1", 1))
    run_as(TWO, lambda: fill(home, "n:1", 2))
    for path in (home / "models/m", home / "models/n", home / "objects/loose"):
        path.chmod(0o700)
    done = command(ONE, "init", "--shared", "--home", home)
    assert done.code == 3
    assert str(home / "models/n") in done.stderr
    assert (home / "models/m").stat().st_mode & 0o2770 == 0o2770
    assert command(TWO, "init", "--shared", "--home", home).code == 0
    assert closed(home, GROUP) == []


def test_init_refuses_what_it_cannot_share(place, run_as) -> None:
    home = place / "store"
    home.mkdir(mode=0o755)
    os.chown(home, ONE, ONE)
    run_as(ONE, lambda: fill(home, "m:1", 1))

    def refused():
        with pytest.raises(casstore.InvalidSetting, match="no group 'nosuchgroup'"):
            casstore.Store.init(home, shared="group", group="nosuchgroup")
        with pytest.raises(casstore.InvalidSetting, match="everybody"):
            casstore.Store.init(home, shared="everybody")
        with pytest.raises(casstore.InvalidSetting, match="how the store is to be shared"):
            casstore.Store.init(home, group=str(GROUP))
        with pytest.raises(casstore.StoreUnwritable, match="not a member"):
            casstore.Store.init(home, shared="group", group=str(TWO))

    before = home.stat().st_mode, home.stat().st_gid
    run_as(ONE, refused)
    done = command(TWO, "init", "--shared", "--home", home)
    assert done.code == 1
    assert f"only {ONE}, or root" in done.stderr
    assert (home.stat().st_mode, home.stat().st_gid) == before
    strangers = place / "projects"
    strangers.mkdir(mode=0o755)
    (strangers / "thesis.tex").write_bytes(b"42")
    with pytest.raises(casstore.StoreError, match=r"thesis\.tex"):
        casstore.Store.init(strangers, shared="group")
    assert stat.S_IMODE(strangers.stat().st_mode) == 0o755


def test_init_shared_leaves_what_is_not_the_stores(place) -> None:
    """BentoML's own things beside models/, and what people are writing into drafts."""
    home = place / "bentoml"
    (home / "bentos").mkdir(parents=True, mode=0o700)
    (home / ".yatai.yaml").write_bytes(b"token")
    (home / ".yatai.yaml").chmod(0o600)
    with casstore.Store(home, auto_gc=False) as store, store.create("m:1") as draft:
        Path(draft.path, "w").write_bytes(b"w")
        Path(draft.path, "w").chmod(0o600)
        casstore.Store.init(home, shared="group", group=str(GROUP))
        assert stat.S_IMODE(Path(draft.path, "w").stat().st_mode) == 0o600
    for path, mode in (("bentos", 0o700), (".yatai.yaml", 0o600)):
        assert stat.S_IMODE((home / path).stat().st_mode) == mode


def test_the_loose_files_of_a_store_that_is_shared_need_no_new_hash(place, run_as) -> None:
    """Where everybody may read them already, only directories change."""
    home = place / "store"
    home.mkdir(mode=0o755)
    os.chown(home, ONE, ONE)
    run_as(ONE, lambda: fill(home, "m:1", 1))
    loose = [path for path in (home / "objects/loose").rglob("*") if path.is_file()]
    before = [path.stat() for path in loose]
    run_as(ONE, lambda: casstore.Store.init(home, shared="group", group=str(GROUP)))
    assert [path.stat() for path in loose] == before
    run_as(TWO, daily_work(home, "two", "m", 5))


def test_a_lock_that_its_maker_closed_can_still_be_taken(place, run_as) -> None:
    home = place / "store"
    made_by_hand(home, run_as)
    run_as(ONE, lambda: fill(home, "m:1", 1))
    for path in (home / "locks").iterdir():
        os.chown(path, ONE, ONE)
        path.chmod(0o644)
    run_as(TWO, daily_work(home, "two", "m", 5), 0o077)


def test_the_umask_stays_as_it_is(place, run_as) -> None:
    home = place / "store"
    made_by_hand(home, run_as)

    def work():
        fill(home, "m:1", 1)
        assert os.umask(0) == 0o037

    run_as(ONE, work, 0o037)
