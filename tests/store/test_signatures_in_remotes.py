"""Signatures that travel by push and pull, through a remote in a directory."""

from __future__ import annotations

import codecs
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.archive import model_signing
from casstore.remote.bucket import Bucket
from tests.kit import Child, Save, contents, everything, flip, noise

pytest.importorskip("cryptography")
from tests.store.test_signatures import Pair, fault, put

FILES = {"w": noise(200_000), "sub/a b": b"1", "model.sig": b"mine"}
NEVER = "0" * 64


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    tmp_path.joinpath("keys").mkdir()
    return Pair(tmp_path / "keys", "ours")


@pytest.fixture
def stranger(pair: Pair) -> Pair:
    return Pair(pair.public.parent, "stranger")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def there(store: casstore.Store, place: Path) -> casstore.Remote:
    return store.add_remote("origin", str(place))


@pytest.fixture
def other(there: casstore.Remote, place: Path, tmp_path: Path) -> Iterator[casstore.Store]:
    """Another store with the same remote."""
    with casstore.Store(tmp_path / "other", auto_gc=False) as opened:
        opened.add_remote("origin", str(place), make=False)
        yield opened


def pull(store: casstore.Store, tags: Any = None, **how: Any) -> list[casstore.Pulled]:
    return [*store.remote("origin").pull(tags, **how)]


def signatures(place: Path, tag: str = "bert:v1") -> list[Path]:
    """The signatures of a version in the remote, those of deleted ones too."""
    return sorted(place.glob(f"refs/{tag.replace(':', '/')}/*.sig"))


def keep_beside(place: Path, bundle: bytes, tag: str = "bert:v1", *, named: str = "") -> Path:
    """Have somebody put this beside a version in the remote."""
    path = place / "refs" / tag.replace(":", "/") / f"0.{named or casstore.Digest.of(bundle).hex()}.sig"
    path.write_bytes(bundle)
    return path


def test_it_travels(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, place: Path, pair: Pair
) -> None:
    model = save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    [pushed] = there.push()
    assert (pushed.is_new, pushed.signatures) == (True, 1)
    [path] = signatures(place)
    assert path.read_bytes() == made.bundle
    assert path.name == f"0.{casstore.Digest.of(made.bundle)}.sig"
    [came] = pull(other)
    assert (came.is_new, came.notes, contents(came.model)) == (True, (), contents(model))
    assert other.signatures("bert:v1") == (made,)
    assert fault(other, "bert:v1", pair) == ""
    assert (there.status().same, there.verify(deep=True).ok) == (1, True)
    # A third store has it from the second.
    shutil.rmtree(place)
    other.add_remote("again", str(place)).push()
    assert [each.read_bytes() for each in signatures(place)] == [made.bundle]


def test_a_version_that_was_pushed_before_it_was_signed(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, pair: Pair, stranger: Pair
) -> None:
    save("bert:v1", FILES)
    assert there.push()[0].signatures == 0
    assert pull(other)[0].is_new
    made = [store.sign("bert:v1", each.private) for each in (pair, stranger)]
    [pushed] = there.push("bert:v1")
    assert (pushed.is_new, pushed.sent_bytes, pushed.signatures) == (False, 0, 2)
    assert there.push("bert:v1")[0].signatures == 0
    [came] = pull(other)
    assert (came.is_new, came.notes) == (False, ())
    assert {each.key for each in other.signatures("bert:v1")} == {each.key for each in made}
    assert pull(other)[0].notes == ()
    third = store.sign("bert:v1", pair.private)
    assert there.push()[0].signatures == 1
    pull(other)
    assert third in other.signatures("bert:v1")


def test_a_signature_that_is_lost_or_damaged_here_comes_again(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, pair: Pair
) -> None:
    save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    there.push()
    pull(other, as_tag="gpt:x")
    assert other.signatures("gpt:x") == (made,)
    [kept] = (other.home / "manifests/.signatures").iterdir()
    kept.chmod(0o644)
    kept.write_bytes(made.bundle[:-9])
    pull(other, as_tag="gpt:x")
    assert kept.read_bytes() == made.bundle
    kept.unlink()
    pull(other, as_tag="gpt:x")
    assert kept.read_bytes() == made.bundle


def test_what_is_kept_here_need_not_come(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, place: Path, pair: Pair
) -> None:
    save("bert:v1", FILES)
    store.sign("bert:v1", pair.private)
    there.push()
    pull(other)
    before = everything(other.home / "manifests")
    [path] = signatures(place)
    path.write_bytes(b"damaged")
    assert pull(other)[0].notes == ()
    assert everything(other.home / "manifests") == before


def test_a_store_may_pull_only_what_is_signed(
    store: casstore.Store,
    save: Save,
    there: casstore.Remote,
    other: casstore.Store,
    place: Path,
    pair: Pair,
) -> None:
    for tag in ("good:1", "none:1", "wrong:1", "stranger:1", "damaged:1"):
        save(tag, {**FILES, "tag": tag.encode(), "more": noise(100_000)})
    good = store.sign("good:1", pair.private)
    put(store, store.get("wrong:1"), good.bundle)
    store.sign("stranger:1", Pair(pair.public.parent, "stranger").private)
    store.sign("damaged:1", pair.private)
    there.push()
    signatures(place, "damaged:1")[0].write_bytes(b"{")
    other.set_setting("require_signature", str(pair.public))
    for tag, said, is_seen_before in (
        ("none:1", "it is not signed; sign it in the store that it comes from", True),
        (
            "damaged:1",
            r"it is not signed.*; a signature is not kept: refs/damaged/1/0\..* is damaged: .*; delete it there",
            True,
        ),
        ("stranger:1", f"and asked for is {pair.id[:16]}", True),
        ("wrong:1", "it is of other files: tag differs", False),
    ):
        for as_tag in (None, "mine:1"):
            with pytest.raises(casstore.InvalidSignature, match=said) as caught:
                pull(other, tag, as_tag=as_tag)
            assert str(caught.value).startswith(f"{tag} in {place} is not imported, as the store takes only what is ")
            assert str(caught.value).endswith("; a push from where it is saved and signed brings a signature there")
        assert other.list() == []
        assert not (other.home / "manifests/.signatures").exists()
        assert is_seen_before == (not list((other.home / "objects").rglob("*.pack"))), "gigabytes may come in vain"
    [came] = pull(other, "good:1")
    assert came.is_new
    assert fault(other, "good:1", pair) == ""
    assert not pull(other, "good:1")[0].is_new
    other.set_setting("require_signature", None)
    assert pull(other, "none:1")[0].is_new


def test_what_is_here_already_is_not_asked(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, place: Path, pair: Pair
) -> None:
    """Neither what is saved, nor what the store itself has left to the remote."""
    save("bert:v1", FILES)
    there.push()
    for tag in ("bert:v2", "bert:v3"):
        save(tag, {"w": tag.encode()}, into=other)
    other.remote("origin").push("bert:v2")
    pull(other)
    other.evict("bert:v2", to_remote="origin")
    other.set_setting("require_signature", str(pair.public))
    assert not pull(other, "bert:v1")[0].is_new
    assert contents(other.get("bert:v2")) == {"w": b"bert:v2"}
    # Under another name it is one that comes in.
    with pytest.raises(casstore.InvalidSignature):
        pull(other, "bert:v2", as_tag="gpt:1")


def test_get_does_not_pull_what_is_not_signed(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, pair: Pair
) -> None:
    save("bert:v1", FILES)
    there.push()
    other.set_setting("pull_missing", "origin")
    other.set_setting("require_signature", str(pair.public))
    with pytest.raises(casstore.InvalidSignature):
        other.get("bert:v1")
    store.sign("bert:v1", pair.private)
    there.push()
    assert contents(other.get("bert:v1")) == FILES
    pair.public.unlink()
    with pytest.raises(casstore.InvalidSource, match=r"imports what is signed alone .* there is no key at"):
        pull(other, "bert:v1", as_tag="bert:x")


def test_whatever_stands_beside_a_version_is_read_with_care(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, place: Path, pair: Pair
) -> None:
    save("bert:v1", FILES)
    save("gpt:v1", {"w": b"other"})
    made, of_other = store.sign("bert:v1", pair.private), store.sign("gpt:v1", pair.private)
    there.push("bert:v1")
    junk = keep_beside(place, b"[" * 5_000_000)
    renamed = keep_beside(place, made.bundle, named=NEVER)
    vast = keep_beside(place, b"", named="1" * 64)
    os.truncate(vast, model_signing.MAX_BUNDLE_BYTES + 1)
    wrong = keep_beside(place, of_other.bundle)
    ignored = place / f"refs/bert/v1/1.{NEVER}.sig"
    ignored.write_bytes(b"of a version that is not there")
    [came] = pull(other, "bert:v1")
    assert came.is_new
    assert {each.bundle for each in other.signatures("bert:v1")} == {made.bundle, of_other.bundle}, "as in an archive"
    assert fault(other, "bert:v1", pair) == ""
    assert len(came.notes) == 3
    assert sum(junk.name in note and "is not kept: it is damaged, or not a signature" in note for note in came.notes)
    assert sum(
        renamed.name in note
        and "is damaged: it does not match its digest; delete it there (`casstore delete bert:v1 --remote`)" in note
        for note in came.notes
    )
    assert sum(vast.name in note and "larger than any document" in note for note in came.notes)
    damage = there.verify(deep=True)
    assert (len(damage.damage), damage.tags) == (2, ())
    assert all(any(path.name in line for line in damage.damage) for path in (renamed, vast))
    assert there.verify().ok
    there.gc()
    assert {*signatures(place)} >= {junk, renamed, vast, wrong, ignored}


def test_a_version_has_a_hundred_signatures_at_most(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, place: Path, pair: Pair
) -> None:
    save("bert:v1", {"w": b"weights"})
    made = store.sign("bert:v1", pair.private)
    there.push()
    for number in range(99):
        keep_beside(place, made.bundle + b" " * (number + 1))
    assert there.push()[0].signatures == 0
    pull(other)
    assert len(other.signatures("bert:v1")) == 100
    again = store.sign("bert:v1", pair.private)
    with pytest.raises(casstore.RemoteError, match=r"more than 100 signatures in .*casstore delete bert:v1 --remote"):
        there.push()
    keep_beside(place, again.bundle)
    other.delete("bert:v1", now=True)
    other.gc()
    [came] = pull(other)
    assert came.notes == ("signatures not read: 1; one version may have 100, of 256 MiB together",)
    there.delete("bert:v1")
    assert there.push()[0].signatures == 1


def test_gc_takes_the_signatures_of_what_is_deleted(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, place: Path, pair: Pair
) -> None:
    save("bert:v1", FILES)
    save("bert:v2", {"w": b"2"})
    for tag in ("bert:v1", "bert:v2"):
        store.sign(tag, pair.private)
    there.push()
    kept = signatures(place, "bert:v2")
    there.delete("bert:v1")
    assert len(signatures(place)) == 1
    there.gc(dry_run=True)
    assert len(signatures(place)) == 1
    there.push("bert:v1")
    assert [path.name[:2] for path in signatures(place)] == ["0.", "1."]
    assert there.gc().records > 0
    assert [path.name[:2] for path in signatures(place)] == ["1."]
    there.delete("bert:v1")
    there.gc()
    assert (signatures(place), signatures(place, "bert:v2")) == ([], kept)
    # One that comes too late belongs to nothing.
    late = keep_beside(place, b"late")
    assert there.gc().records == 1
    assert not late.exists()
    [came] = pull(other)
    assert fault(other, str(came.model.tag), pair) == ""


def test_it_stays_where_the_version_is_packed_anew(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, place: Path, pair: Pair
) -> None:
    save("bert:v1", {"a": noise(100_000, 1), "b": noise(100_000, 2), "c": noise(100_000, 3)})
    save("bert:v2", {"a": noise(100_000, 1)})
    store.sign("bert:v2", pair.private)
    there.push()
    there.delete("bert:v1")
    assert there.repack().versions == 1
    assert list(place.glob("refs/bert/v2/0.s0"))
    there.gc()
    pull(other)
    assert fault(other, "bert:v2", pair) == ""


def test_a_machine_that_brings_the_same_signature_at_once(
    store: casstore.Store, save: Save, there: casstore.Remote, place: Path, pair: Pair, tmp_path: Path
) -> None:
    save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    shutil.copytree(store.home, tmp_path / "copy")

    def pushing(home: Path) -> Callable[[], None]:
        def push() -> None:
            with casstore.Store(home, auto_gc=False) as opened:
                opened.remote("origin").push()

        return push

    children = [Child(pushing(home)) for home in (store.home, tmp_path / "copy")]
    assert [child.wait() for child in children] == [0, 0]
    assert [path.read_bytes() for path in signatures(place)] == [made.bundle]


def test_what_takes_the_place_of_a_signature_is_not_taken_for_it(
    store: casstore.Store, save: Save, there: casstore.Remote, place: Path, pair: Pair
) -> None:
    save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    there.push()
    there.delete("bert:v1")
    squatter = place / f"refs/bert/v1/1.{casstore.Digest.of(made.bundle)}.sig"
    squatter.write_bytes(b"other")
    with pytest.raises(casstore.IntegrityError, match=rf"{squatter.name} in .* is damaged.*; delete it there"):
        there.push()
    there.delete("bert:v1")
    assert there.push()[0].signatures == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_signature_that_others_may_not_read_keeps_the_version_from_nobody(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, place: Path, pair: Pair
) -> None:
    save("bert:v1", FILES)
    store.sign("bert:v1", pair.private)
    there.push()
    pull(other)
    home = Path(tempfile.mkdtemp())  # pytest's own is closed to others
    home.chmod(0o777)
    shutil.copytree(place, home / "remote")
    [closed] = signatures(home / "remote")
    closed.chmod(0o600)

    def pulling() -> None:
        os.setgroups([])
        os.setuid(61_001)
        with casstore.Store(home / "store", auto_gc=False) as opened:
            opened.add_remote("origin", str(home / "remote"), make=False)
            [came] = pull(opened)
            assert (came.is_new, contents(came.model), opened.signatures("bert:v1")) == (True, FILES, ())
            assert len(came.notes) == 1
            assert "a signature is not kept: refs/bert/v1/0." in came.notes[0]
            assert "Permission denied" in came.notes[0]

    try:
        codecs.lookup("ascii")  # as in test_many_users
        assert Child(pulling).wait() == 0
    finally:
        shutil.rmtree(home)


def test_signatures_come_once_however_often_a_pull_is_tried(
    store: casstore.Store, save: Save, other: casstore.Store, place: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("bert:v1", FILES)
    store.sign("bert:v1", pair.private)
    store.remote("origin").push()
    [pack] = place.glob("packs/*/*.pack")
    flip(pack, 1000)
    asked: list[str] = []
    read = Bucket.signature

    def signature(self: Bucket, tag: casstore.Tag, key: str) -> bytes:
        asked.append(key)
        return read(self, tag, key)

    monkeypatch.setattr(Bucket, "signature", signature)
    with pytest.raises(casstore.IntegrityError, match=f"{pack.name} in .* is damaged at byte"):
        pull(other)
    assert len(asked) == 1


def test_of_several_versions_those_come_that_are_signed(
    store: casstore.Store, save: Save, there: casstore.Remote, other: casstore.Store, pair: Pair
) -> None:
    for number in range(4):
        save(f"bert:v{number}", {"w": b"%d" % number})
    for tag in ("bert:v1", "bert:v3"):
        store.sign(tag, pair.private)
    there.push()
    other.set_setting("require_signature", str(pair.public))
    with pytest.raises(
        casstore.InvalidSignature, match=r"bert:v0 in .* it is not signed.*; refused are 2 versions, and 2 are here$"
    ):
        pull(other)
    assert {str(model.tag) for model in other.list()} == {"bert:v1", "bert:v3"}
    assert Path(other.home, "models/bert/v3").exists()
    for tag in ("bert:v0", "bert:v2"):
        store.sign(tag, pair.private)
    there.push()
    assert [came.is_new for came in pull(other)].count(True) == 2
