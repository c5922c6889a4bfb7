"""Scenes for the scheduler: pushes, deletions, gc and readers of one remote at once, and what must be true then."""

from __future__ import annotations

import functools
import random
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import pull, push
from casstore.actions.exchange.arrivals import Wishes
from casstore.actions.saving.trust import Trust
from casstore.digest import Digest
from casstore.errors import RemoteError, TagExists, TagNotFound
from casstore.progress import SILENT
from casstore.remote import collect, deleting, keys, once, repacking, verifying
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Marker, Ref
from casstore.remote.pushing import revoke
from casstore.remote.reading import RemoteVersion
from casstore.remote.segment import Header, unpack_packs
from casstore.tag import Tag
from tests.kit import known, noise, private_key
from tests.remote.memory import MemoryBackend, OldListings, Stored
from tests.remote.scheduler import Actor, AtOnce, Directed, Killed, Scheduler

SMALL_PACK_BYTES = 5000
SIZE = 4000
FILES: Mapping[str, Mapping[str, bytes]] = {
    "m:a": {"1": noise(SIZE, 1), "2": noise(SIZE, 2)},
    "m:b": {"1": noise(SIZE, 1), "2": noise(SIZE, 2), "3": noise(SIZE, 3)},
    "m:c": {"2": noise(SIZE, 2), "3": noise(SIZE, 3), "4": noise(SIZE, 4)},
    "m:d": {"3": noise(SIZE, 3), "4": noise(SIZE, 4)},
}


# What may be said where another was faster, or where an answer was lost.
TOLD = ("has revoked the push", "was changed by another while it was repacked", " was lost")


class Broken(AssertionError):
    """A version that is there lacks what it needs."""


@functools.lru_cache(10_000)
def named(ref: bytes, tag: Tag, key: str, segment: bytes) -> tuple[str, ...]:
    """The packs that a version's segment names."""
    header = Header.unpack(segment, Ref.unpack(ref, tag, key).segment_check, key)
    return tuple(info.key for info in unpack_packs(segment, header, key))


@functools.lru_cache(10_000)
def segment_of(ref: bytes, tag: Tag, key: str) -> str:
    return Ref.unpack(ref, tag, key).segment


def live(objects: Mapping[str, Stored]) -> dict[Tag, str]:
    """The keys of the refs of the versions that are there."""
    return keys.live(states_of(objects))


def needs(objects: Mapping[str, Stored]) -> set[str]:
    """The keys of all that the versions need which are there. Raises Broken where one is missing."""
    found: set[str] = set()
    for tag, key in live(objects).items():
        ref = objects[key].body
        segment = segment_of(ref, tag, key)
        if segment not in objects:
            raise Broken(f"{key} needs {segment}")
        packs = named(ref, tag, key, objects[segment].body)
        missing = [pack for pack in packs if pack not in objects]
        if missing:
            raise Broken(f"{key} needs {missing[0]}")
        found |= {key, segment, *packs}
    return found


def leftovers(objects: Mapping[str, Stored], bucket: Bucket) -> list[str]:
    """What stands there that nothing needs, besides refs, epochs, how pushes were revoked, and probes."""
    needed = needs(objects)
    ends = [key for key in objects if key.startswith(keys.PUSHES) and key.endswith("/end")]
    with ThreadPoolExecutor(1) as pool:
        revoked = {keys.push_end(end.push_id) for end in bucket.ends(map(known_push, ends), pool) if not end.is_sealed}
    kept = (keys.MARKER, keys.REFS, keys.EPOCHS, keys.SUMMARIES, f"{keys.PROBE}/")
    dead = {key for state in states_of(objects).values() for key in state.dead_signatures}
    return [key for key in objects if key in dead or not (key.startswith(kept) or key in needed or key in revoked)]


def states_of(objects: Mapping[str, Stored]) -> dict[Tag, keys.RefState]:
    """What stands under `refs/`, by tag."""
    return keys.refs(key for key in objects if key.startswith(keys.REFS))


def check_signed(objects: Mapping[str, Stored]) -> None:
    """Each version that is there has its signature, which no push may have left out that ended well. Raises Broken."""
    for tag, state in states_of(objects).items():
        sound = [key for key in state.signatures if keys.parse_signature(key) == Digest.of(objects[key].body)]
        if state.is_live and len(sound) != 1:
            raise Broken(f"{tag} has {len(sound)} sound signatures")


def known_push(key: str) -> str:
    return known(keys.parse_push(key))


@dataclass
class Stage:
    """Two stores that hold the same versions, all signed, of which the remote has the first; a directory for more."""

    stores: list[casstore.Store]
    objects: dict[str, Stored]
    empty: Path
    root: Path
    made: int = 0

    @classmethod
    def build(cls, root: Path) -> Stage:
        """Save the versions, sign them, copy the store, and push the first."""
        with casstore.Store(root / "0") as store:
            base: str | None = None
            for tag, files in FILES.items():
                with store.create(tag, base=base) as draft:
                    for name, content in files.items():
                        Path(draft.path, name).write_bytes(content)
                store.sign(tag, private_key(root / "key.pem"), hash="blake3")
                base = tag
        casstore.Store(root / "empty").close()
        shutil.copytree(root / "0", root / "1")
        stores = [casstore.Store(root / name) for name in ("0", "1")]
        backend = MemoryBackend()
        bucket = Bucket.make(backend)
        push_tag(stores[0], bucket, "m:a")
        return cls(stores, backend.objects, root / "empty", root)

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def fresh(self) -> casstore.Store:
        """A store that holds nothing."""
        self.made += 1
        home = self.root / f"fresh{self.made}"
        shutil.copytree(self.empty, home)
        return casstore.Store(home)


def push_tag(store: casstore.Store, bucket: Bucket, tag: str) -> push.Pushed:
    workspace = store._workspace
    return push.push_version(workspace, bucket, known(workspace.catalog.versions.find(Tag.parse(tag))), SILENT)


@dataclass
class Scene:
    """One schedule of one scene. Its methods are what actors do."""

    stage: Stage
    bucket: Bucket
    backend: MemoryBackend
    pause: Callable[[float], object]
    revoke_after_ns: int = 0
    pulled: list[casstore.Store] = field(default_factory=list)

    def push(self, tag: str, store: int = 0) -> Callable[[], object]:
        return lambda: push_tag(self.stage.stores[store], self.bucket, tag)

    def delete(self, tag: str) -> Callable[[], object]:
        return lambda: deleting.delete(self.bucket, Tag.parse(tag))

    def gc(self) -> Callable[[], object]:
        return lambda: self.collect(self.revoke_after_ns)

    def collect(self, revoke_after_ns: int) -> collect.RemoteGcReport:
        return collect.collect(self.bucket, AtOnce(), revoke_after_ns=revoke_after_ns, pause=self.pause)

    def repack(self) -> Callable[[], object]:
        return lambda: repacking.repack(self.bucket, AtOnce(), SILENT)

    def read(self, tag: str) -> Callable[[], object]:
        """Read a version where it is."""
        return lambda: read_remote(self.bucket, tag)

    def pull(self, tag: str) -> Callable[[], object]:
        """Pull a version into a store of its own."""
        wishes = Wishes(None, Trust.NONE, durable=False, materialize=False)
        store = self.stage.fresh()
        self.pulled.append(store)

        def work() -> None:
            workspace = store._workspace
            assert pull.pull_version(workspace, self.bucket, Tag.parse(tag), wishes, SILENT).is_new
            model = store.get(tag)
            assert {file.path: model.open(file.path).read() for file in model.files} == FILES[tag]

        return work


def read_remote(bucket: Bucket, tag: str) -> None:
    """Read every file of a version, and compare it."""
    version = RemoteVersion.find(bucket, Tag.parse(tag))
    assert {file.path: version.open(file.path).read() for file in version.manifest.files} == FILES[tag]


Play = Callable[[Scene], Mapping[str, Callable[[], object]]]


def then(*steps: Callable[[], object]) -> Callable[[], object]:
    """One after the other, whether or not the ones before it went well."""

    def work() -> object:
        last = None
        for step in steps:
            try:
                last = step()
            except (TagNotFound, TagExists) as error:
                last = error
        return last

    return work


@dataclass(frozen=True)
class Options:
    """How a scene is played: see Scheduler. `kill`: the actors that die, each within so many calls.

    `old`: how many calls ago what a listing shows may have been.
    """

    revoke_after_ns: int = 6  # the clock counts what is written
    kill: Mapping[str, int] = field(default_factory=dict)
    lose: float = 0.0
    old: int = 0
    page: int = 3


def perform(stage: Stage, play: Play, options: Options, seed: int, steps: Sequence[tuple[str, str]] = ()) -> Scheduler:
    """Play a scene in one order, then collect what is left, and see what is left. Raises Broken, AssertionError.

    With `steps` in that order, else in the one that the seed tells.
    """
    chance = random.Random(seed)
    remote_id = secrets.token_hex(16)  # the stores' caches of one schedule are not those of another
    with pytest.MonkeyPatch.context() as patch:
        # The names that pushes get decide what comes first in listings.
        patch.setattr(secrets, "token_hex", lambda size: chance.randbytes(size).hex())
        patch.setattr(secrets, "randbits", chance.getrandbits)
        objects = {**stage.objects, keys.MARKER: Stored(Marker(remote_id).pack(), 0)}
        backend = MemoryBackend(objects, page=options.page)
        kill_at = {name: chance.randrange(1, most) for name, most in options.kill.items()}
        scheduler = Scheduler(seed, lambda: needs(backend.objects), kill_at=kill_at, lose=options.lose)
        if steps:
            scheduler = Directed(steps, lambda: needs(backend.objects))
        if options.old:
            backend = OldListings(objects, lambda: scheduler.clock, options.old, random.Random(seed))
        bucket = Bucket.open(backend)
        scene = Scene(stage, bucket, backend, scheduler.sleep, options.revoke_after_ns)
        work = play(scene)
        for module in (push, pull):
            patch.setattr(module, "workers", at_once)
        patch.setattr(push, "pause", scheduler.let_others_go_on)
        patch.setattr(push, "_PATIENCE_SECONDS", push._POLL_SECONDS)
        patch.setattr(push, "_NOTE_SECONDS", 60 * (seed % 2))
        patch.setattr(push, "PACK_BYTES", SMALL_PACK_BYTES)
        patch.setattr(once.create_once, "__defaults__", (scheduler.let_others_go_on,))
        backend.hook = scheduler
        try:
            actors = scheduler.run(work)
            check_ends(actors, backend, options)
            if not options.kill and not options.lose:
                check_signed(backend.objects)
            backend.page = 1000
            scheduler.sleep(backend.listing_delay_seconds)
            check_collected(scene)
        finally:
            for store in stage.stores:
                store._workspace.catalog.remotes.forget_at(bucket.name)
            for store in scene.pulled:
                store.close()
    return scheduler


def at_once(_count: int) -> AbstractContextManager[AtOnce]:
    return nullcontext(AtOnce())


def check_ends(actors: Mapping[str, Actor], backend: MemoryBackend, options: Options) -> None:
    """See that each actor ended as it may: done, killed, revoked too often, or told that a version is not there."""
    for actor in actors.values():
        error = actor.error
        is_killed = isinstance(error, Killed) and actor.name in options.kill
        is_told = isinstance(error, RemoteError) and any(text in str(error) for text in TOLD)
        if error is not None and not (is_killed or is_told or isinstance(error, TagNotFound)):
            raise error
        if isinstance(actor.result, push.Pushed):
            state = keys.refs(backend.objects)[actor.result.tag]
            assert state.generation >= 0


def check_collected(scene: Scene) -> None:
    """End what is open, collect twice, and see that what is left is what is needed, and sound."""
    bucket, backend = scene.bucket, scene.backend
    for push_id, state in collect.list_pushes(bucket).items():
        if state.is_open and not state.has_ended:
            revoke(bucket, push_id)
    scene.pause(scene.backend.listing_delay_seconds)
    scene.collect(0)
    assert leftovers(backend.objects, bucket) == []
    assert verifying.verify(bucket, AtOnce(), deep=True).ok
    for tag in live(backend.objects):
        read_remote(bucket, str(tag))


def two_pushes(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {
        "push b": scene.push("m:b"),
        "push c": scene.push("m:c", 1),
        "delete a": scene.delete("m:a"),
        "gc": then(scene.gc(), scene.gc()),
    }


def the_same_twice(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {
        "push": scene.push("m:b"),
        "push too": scene.push("m:b", 1),
        "delete a": then(scene.delete("m:a"), scene.delete("m:b")),
        "gc": then(scene.gc(), scene.gc()),
    }


def two_gcs(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {
        "push b": scene.push("m:b"),
        "delete a": scene.delete("m:a"),
        "gc": then(scene.gc(), scene.gc()),
        "gc too": then(scene.gc(), scene.gc()),
    }


def deleted_again(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {
        "a": then(scene.delete("m:a"), scene.push("m:a"), scene.delete("m:a"), scene.push("m:a")),
        "push a": scene.push("m:a", 1),
        "gc": then(scene.gc(), scene.gc()),
        "gc too": scene.gc(),
    }


def cut_short(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {
        "first": scene.push("m:b"),
        "second": scene.push("m:b"),
        "delete a": then(scene.delete("m:a"), scene.gc()),
        "push c": scene.push("m:c", 1),
        "gc": then(scene.gc(), scene.push("m:b"), scene.gc()),
    }


def reading(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {
        "read": scene.read("m:a"),
        "push b": scene.push("m:b"),
        "delete a": then(scene.delete("m:a"), scene.push("m:a", 1)),
        "gc": then(scene.gc(), scene.gc()),
    }


def pulling(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {**reading(scene), "read": scene.pull("m:a")}


def repacked(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {
        "push c": then(scene.push("m:c"), scene.read("m:c")),
        "delete a": then(scene.delete("m:a"), scene.repack()),
        "repack": scene.repack(),
        "push b": scene.push("m:b", 1),
        "gc": then(scene.gc(), scene.gc()),
    }


def condemning_twice(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {
        "push b": scene.push("m:b"),
        "push d": scene.push("m:d", 1),
        "delete a": scene.delete("m:a"),
        "delete d": scene.delete("m:d"),
        "gc": scene.gc(),
        "gc too": scene.gc(),
    }


def deleting_both(scene: Scene) -> Mapping[str, Callable[[], object]]:
    return {**two_pushes(scene), "delete b": scene.delete("m:b"), "gc": scene.gc()}


SCENES: Mapping[str, tuple[Play, Sequence[Options]]] = {
    "old listings": (two_pushes, [Options(old=30)]),
    "cut short, with old listings": (cut_short, [Options(old=30, kill={"first": 40})]),
    "repacked, with old listings": (repacked, [Options(old=30)]),
    "two pushes": (two_pushes, [Options(), Options(revoke_after_ns=1 << 62), Options(revoke_after_ns=0, lose=0.2)]),
    "the same twice": (
        the_same_twice,
        [Options(), Options(revoke_after_ns=1 << 62), Options(revoke_after_ns=0, lose=0.2)],
    ),
    "two gcs": (two_gcs, [Options(), Options(revoke_after_ns=1 << 62), Options(kill={"gc": 60})]),
    "deleted again": (deleted_again, [Options(), Options(revoke_after_ns=1 << 62), Options(lose=0.1)]),
    "cut short": (cut_short, [Options(kill={"first": 40}), Options(kill={"first": 40, "gc": 80}, lose=0.1)]),
    "repacked": (repacked, [Options(), Options(revoke_after_ns=1 << 62), Options(kill={"repack": 60}, lose=0.1)]),
    "condemning twice": (condemning_twice, [Options(), Options(revoke_after_ns=1 << 62)]),
    "reading": (reading, [Options()]),
    "pulling": (pulling, [Options()]),
}


@dataclass(frozen=True)
class Order:
    """A schedule that few seeds find: see Directed."""

    play: Play
    steps: Sequence[tuple[str, str]]
    options: Options = Options(revoke_after_ns=1 << 62, page=1000)


SEALING = [("push b", "put segments/"), ("delete a", ""), ("gc", ""), ("push b", "")]
ORDERS: Mapping[str, Order] = {
    # A push is about to be sealed when what it relies on is deleted and collected: gc waits, or revokes it.
    "waited for": Order(deleting_both, SEALING),
    "revoked": Order(deleting_both, SEALING, Options(revoke_after_ns=0, page=1000)),
    # What a version needs has gone when it is pushed again.
    "collected, and pushed again": Order(
        deleted_again, [("a", "create refs/m/a/0.x"), ("a", "list refs/m/"), ("gc", ""), ("a", "")]
    ),
    # A push relies on the pack of a version that is deleted; gc has published that, and the push has taken note.
    "noted before the fence": Order(
        deleting_both,
        [
            ("push b", "put packs/"),
            ("delete a", ""),
            ("gc", "create gc/"),
            ("gc", "list pushes/"),
            ("push b", "put segments/"),
            ("gc", ""),
            ("push b", ""),
        ],
    ),
    # The pack is condemned, and needed by a version that was pushed meanwhile; a push that began before that was
    # published, and is opened after gc has looked for those that are open, finds that version.
    "opened after the fence": Order(
        deleting_both,
        [
            ("push b", "create pushes/"),
            ("push b", "create pushes/"),
            ("delete a", ""),
            ("push c", "create pushes/"),
            ("gc", "create gc/"),
            ("gc", "list pushes/"),
            ("push b", ""),
            ("gc", "list packs/"),
            ("push c", "put segments/"),
            ("delete b", ""),
            ("gc", ""),
            ("push c", ""),
        ],
    ),
    # A push begins, and writes its segment, while gc looks for the second time.
    "begun in the second look": Order(
        deleting_both,
        [
            ("delete a", ""),
            ("gc", "create gc/"),
            ("gc", "list packs/"),
            ("push b", "create pushes/"),
            ("push b", "create pushes/"),
            ("gc", ""),
            ("push b", ""),
        ],
    ),
    # A push takes note of an epoch, then of the next, which does not have what has been removed in between.
    "condemned, removed, and noted again": Order(
        condemning_twice,
        [
            ("push d", ""),
            *[("push b", "list gc/")] * 3,
            ("delete a", ""),
            ("gc", "create gc/"),
            ("gc", "list pushes/"),
            ("push b", "put packs/"),
            ("gc", ""),
            ("delete d", ""),
            ("gc too", "create gc/"),
            ("gc too", "list pushes/"),
            ("push b", "put segments/"),
            ("gc too", ""),
            ("push b", ""),
        ],
    ),
    # A push has noted a pack, and not written it, when another process of the store pushes the same.
    "noted and not written": Order(cut_short, [("first", "put packs/"), ("second", ""), ("first", "")]),
    # A push is sealed, and has not made its ref, when its version is pushed again, deleted, and collected.
    "sealed and not committed": Order(
        cut_short,
        [("first", "create refs/"), ("second", ""), ("push c", ""), ("delete a", ""), ("gc", ""), ("first", "")],
    ),
    # The same version is pushed from two stores, and the second that is sealed comes first.
    "the second is first": Order(
        the_same_twice,
        [
            ("push", "put packs/"),
            ("push too", "create refs/"),
            ("push", ""),
            ("delete a", ""),
            ("gc", ""),
            ("push too", ""),
        ],
    ),
}
