"""OCI layouts that are not what casstore has put there, or that casstore is to put something into."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import pytest

import casstore
from casstore.actions import checksums
from casstore.actions.exchange import oci_export
from casstore.archive import limits
from casstore.cli.verbs.import_ import import_archive
from casstore.storage import files
from tests.kit import Picture, Rot, Save, contents, noise, plant
from tests.oci_layouts import FILE_PATH, MODELPACK, Layout, tar

FILES = {"model.bin": noise(100_000), "run.sh!": b"#!/bin/sh", "void/within": None, "sub/a": b"a"}
Manifest = dict[str, Any]


@pytest.fixture
def other(tmp_path: Path):
    with casstore.Store(tmp_path / "other", auto_gc=False) as opened:
        yield opened


def put(root: Path, data: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    (root / "blobs/sha256" / sha256).write_bytes(data)
    return {"digest": f"sha256:{sha256}", "size": len(data)}


def edit(root: Path, change: Callable[[Manifest], None]) -> None:
    """Change the manifest of the one artifact of a layout, and name what it is then."""
    index = json.loads((root / "index.json").read_bytes())
    [entry] = index["manifests"]
    manifest = json.loads((root / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes())
    change(manifest)
    entry.update(put(root, json.dumps(manifest).encode()))
    (root / "index.json").unlink()
    (root / "index.json").write_text(json.dumps(index))


def layer(manifest: Manifest, path: str) -> dict[str, Any]:
    return next(each for each in manifest["layers"] if each["annotations"][FILE_PATH] == path)


def one_less(manifest: Manifest) -> None:
    manifest["layers"].remove(layer(manifest, "model.bin"))


def nothing_left(manifest: Manifest) -> None:
    manifest["layers"] = []


def without_descriptor(manifest: Manifest) -> None:
    manifest["layers"].remove(layer(manifest, "model.yaml"))


def exchanged(manifest: Manifest) -> None:
    one, two = layer(manifest, "model.bin"), layer(manifest, "sub/a")
    one.update(digest=two["digest"], size=two["size"])
    for each in (one, two):
        del each["annotations"]["casstore.blake3"]


def not_to_be_run(manifest: Manifest) -> None:
    del layer(manifest, "run.sh")["annotations"]["org.cncf.model.file.metadata+json"]


def other_name(manifest: Manifest) -> None:
    layer(manifest, "sub/a")["annotations"][FILE_PATH] = "sub/b"


def no_directories(manifest: Manifest) -> None:
    del manifest["annotations"]["casstore.directories"]


def other_digest(manifest: Manifest) -> None:
    manifest["annotations"]["casstore.digest"] = "0" * 64


def no_digest(manifest: Manifest) -> None:
    manifest["annotations"]["casstore.digest"] = "x"


@pytest.mark.parametrize(
    "case",
    [
        (one_less, "not the version that its annotation casstore.digest says"),
        (nothing_left, "is not whole: it has lost its model.yaml"),
        (without_descriptor, "is not whole: it has lost its model.yaml"),
        (exchanged, "not the version"),
        (not_to_be_run, "not the version"),
        (other_name, "not the version"),
        (no_directories, "not the version"),
        (other_digest, "not the version"),
        (no_digest, "not the version"),
    ],
)
def test_another_version_than_it_says_is_refused(
    store: casstore.Store, save: Save, other: casstore.Store, picture: Picture, tmp_path: Path,
    case: tuple[Callable[[Manifest], None], str],
) -> None:  # fmt: skip
    change, says = case
    save("bert:v1", FILES)
    store.export("bert:v1", f"oci:{tmp_path / 'out'}")
    edit(tmp_path / "out", change)
    before = picture()
    for here in (other, store):
        with pytest.raises(casstore.IntegrityError, match=says):
            here.import_archive(f"oci:{tmp_path / 'out'}")
    assert not list(other.tags())
    assert picture() == before


def test_what_has_been_changed_on_purpose_comes_in(
    store: casstore.Store, save: Save, other: casstore.Store, tmp_path: Path
) -> None:
    def changed(manifest: Manifest) -> None:
        one_less(manifest)
        del manifest["annotations"]["casstore.digest"]

    save("bert:v1", FILES)
    store.export("bert:v1", f"oci:{tmp_path / 'out'}")
    edit(tmp_path / "out", changed)
    [came] = other.import_archive(f"oci:{tmp_path / 'out'}")
    assert [file.path for file in came.model.files] == ["run.sh", "sub/a"]


def test_no_files_are_no_model(store: casstore.Store, tmp_path: Path) -> None:
    Layout(tmp_path / "in").artifact("v1", [])
    with pytest.raises(casstore.InvalidSource, match="has no files"):
        store.import_archive(f"oci:{tmp_path / 'in'}")


def test_a_version_without_files_comes_back(store: casstore.Store, other: casstore.Store, tmp_path: Path) -> None:
    model = store.save("none:v1", plant(tmp_path / "none", {"void": None}), allow_empty=True)
    store.export("none:v1", f"oci:{tmp_path / 'out'}")
    [came] = other.import_archive(f"oci:{tmp_path / 'out'}")
    assert came.model.digest == model.digest


def damage(path: Path, replaced: bool) -> None:
    data = path.read_bytes()
    if replaced:
        path.unlink()
        path.touch()
    with open(path, "r+b") as file:
        file.write(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.parametrize("replaced", [False, True], ids=["written to", "replaced"])
def test_what_is_damaged_in_a_layout_is_written_again(
    store: casstore.Store, save: Save, other: casstore.Store, tmp_path: Path, replaced: bool
) -> None:
    """A file that was written to has no link to the store's; one that was replaced, as by a copy, may have had."""
    store.set_setting("link_mode", "hardlink" if replaced else "copy")
    root = tmp_path / "out"
    save("bert:v1", FILES)
    store.export("bert:v1", f"oci:{root}")
    blobs = sorted((root / "blobs/sha256").iterdir())
    assert len(blobs) == 3 + 3, "files, and model.yaml, configuration and manifest"
    for path in blobs:
        damage(path, replaced)
    store.export("bert:v1", f"oci:{root}:again")
    for path in blobs:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    [came] = other.import_archive(f"oci:{root}:again")
    assert came.model.digest == store.get("bert:v1").digest
    assert store.verify().is_sound


def test_what_is_sound_in_a_layout_is_read_once(
    store: casstore.Store, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_setting("link_mode", "copy")
    save("bert:v1", FILES)
    store.export("bert:v1", f"oci:{tmp_path / 'out'}")
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out/blobs/sha256").iterdir()}
    read: list[Any] = []
    monkeypatch.setattr(oci_export, "of_file", lambda *given: read.append(given) or checksums.of_file(*given))
    for _ in range(3):
        store.export("bert:v1", f"oci:{tmp_path / 'out'}")
    assert len(read) == 3, "the files once each"
    assert {path.name: path.stat().st_ino for path in (tmp_path / "out/blobs/sha256").iterdir()} == before


@pytest.mark.parametrize(
    ("said", "is_future"),
    [
        ("2200-01-01T00:00:00Z", True), ("2300-01-01T00:00:00Z", True), ("9999-12-31T23:59:59Z", True),
        ("1970-01-01T00:00:00Z", False), ("1900-01-01T00:00:00Z", False),
    ],
)  # fmt: skip
def test_when_a_modelpack_says_that_it_was_made(
    store: casstore.Store, tmp_path: Path, said: str, is_future: bool
) -> None:
    layout = Layout(tmp_path / "in")
    layout.artifact("v1", [layout.file("x", b"1")], {"descriptor": {"name": "bert", "createdAt": said}})
    before = datetime.now(timezone.utc)
    [came] = store.import_archive(f"oci:{tmp_path / 'in'}")
    if is_future:
        assert before <= came.model.created_at <= datetime.now(timezone.utc)
        assert came.notes == ("its creation time is in the future; now stands for it",)
    else:
        assert (came.model.created_at, came.notes) == (datetime.fromisoformat(said.replace("Z", "+00:00")), ())
    [again] = store.import_archive(f"oci:{tmp_path / 'in'}")
    assert not again.is_new


def test_text_that_is_not_unicode(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    def refused(**said: Any) -> None:
        root = tmp_path / f"in{len(list(tmp_path.iterdir()))}"
        layout = Layout(root)
        layer = {**layout.file("x", b"1"), "annotations": {FILE_PATH: said.pop("path", "x")}}
        layout.artifact(said.pop("ref", "v1"), [layer], said.pop("config", None), **said)
        with pytest.raises(casstore.UnsafeArchive, match="has text that is not Unicode"):
            store.import_archive(f"oci:{root}")

    refused(path="\udcff")
    refused(path="a/\ud83d")
    refused(ref="v\udcff")
    refused(config={"descriptor": {"name": "\udcff"}})
    refused(annotations={"casstore.directories": "\udcff"})
    refused(annotations={"\udcff": "1"})
    layout = Layout(tmp_path / "raw")
    layout.artifact("v\N{GRINNING FACE}", [layout.file("x", b"1")])
    index = tmp_path / "raw/index.json"
    index.write_bytes(index.read_bytes().replace(rb"\ud83d\ude00", b"\xed\xb3\xbf"))
    with pytest.raises(casstore.UnsafeArchive, match="has text that is not Unicode"):
        store.import_archive(f"oci:{tmp_path / 'raw'}")
    layout = Layout(tmp_path / "in")
    layout.artifact("v1", [layout.file("\N{GRINNING FACE}", b"1")])  # a pair, as json.dumps writes it
    [came] = store.import_archive(f"oci:{tmp_path / 'in'}")
    assert contents(came.model) == {"\N{GRINNING FACE}": b"1"}
    layout.artifact("v\udcff", [])
    save("bert:v2", {"x": b"1"})
    with pytest.raises(casstore.UnsafeArchive, match="has text that is not Unicode"):
        store.export("bert:v2", f"oci:{tmp_path / 'in'}")


def test_a_versions_own_reference_is_not_taken_from_it(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'out'}"
    for tag in ("bert:v1", "bert:v2", "gpt:v1"):
        save(tag, {"w": tag.encode()})
    store.export("bert:v1", place)
    before = (tmp_path / "out/index.json").read_bytes()
    with pytest.raises(casstore.InvalidSource, match=r"'v1' is bert:v1 in .*; say another .* as in oci:.*:bert-v2"):
        store.export("bert:v2", f"{place}:v1")
    with pytest.raises(casstore.InvalidSource, match=r"'v1' is bert:v1 in .*; say another .* as in oci:.*:gpt-v1"):
        store.export("gpt:v1", f"{place}:v1")
    assert (tmp_path / "out/index.json").read_bytes() == before
    for tag in ("bert:v1", "gpt:v1", "bert:v2"):
        assert store.export(tag, f"{place}:prod") == f"{place}:prod"
    save("gpt:v3", {"w": b"3"})
    with pytest.raises(casstore.InvalidSource) as caught:
        store.export(["gpt:v1", "gpt:v3"], place)
    [command] = re.findall("`casstore export ([^`]+)`", str(caught.value))
    tag, target = command.split()
    assert store.export(tag, target) == f"{place}:gpt-v1"


def test_an_index_of_another_program_says_no_tags(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'out'}"
    save("bert:v1", {"w": b"1"})
    save("gpt:v1", {"w": b"2"})
    store.export("bert:v1", place)
    path = tmp_path / "out/index.json"
    index = json.loads(path.read_bytes())
    del index["manifests"][0]["annotations"]["casstore.tag"]
    path.unlink()
    path.write_text(json.dumps(index))
    with pytest.raises(casstore.InvalidSource, match="'v1' is bert:v1 in"):
        store.export("gpt:v1", place)
    assert store.export("bert:v1", place) == f"{place}:v1"


def test_a_layout_with_nothing_in_it(store: casstore.Store, tmp_path: Path) -> None:
    Layout(tmp_path / "in")
    for ref in ("", ":v1"):
        with pytest.raises(casstore.InvalidSource, match="is an OCI layout with nothing in it"):
            store.import_archive(f"oci:{tmp_path / 'in'}{ref}")


@pytest.mark.parametrize(
    ("said", "compress", "says"),
    [("tar", "gzip", "is gz, and .* says tar"), ("tar", "zstd", "is zst, and .* says tar"),
     ("tar+gzip", "", "is tar, and .* says gz"), ("tar+zstd", "gzip", "is gz, and .* says zst")],
)  # fmt: skip
def test_a_layer_that_is_packed_otherwise_than_it_says(
    store: casstore.Store, tmp_path: Path, said: str, compress: str, says: str
) -> None:
    layout = Layout(tmp_path / "in")
    layout.artifact("v1", [layout.blob(f"{MODELPACK}.weight.v1.{said}", tar({"x": b"1"}, compress))])
    with pytest.raises(casstore.InvalidSource, match=f"a layer of oci:.*:v1 {says}"):
        store.import_archive(f"oci:{tmp_path / 'in'}")


def test_what_trust_allows_is_what_help_says() -> None:
    said = f"more than {limits.FREE_BYTES >> 30} GiB and {limits.MAX_RATIO} times its size"
    [trust] = [each for each in import_archive.params if each.name == "trust"]
    assert isinstance(trust, click.Option)
    assert said in str(trust.help)
    assert said in str(casstore.Store.import_archive.__doc__)


@pytest.mark.parametrize("to", ["oci:{}/oci", "{}/a.tar", "{}/folder"])
def test_an_export_of_what_is_damaged_names_the_file(
    store: casstore.Store, save: Save, rot: Rot, tmp_path: Path, to: str
) -> None:
    save("bert:v1", {"sub/w": noise(200_000), "a": b"1"}, materialize=False)
    [pack] = (store.home / "objects/packs").iterdir()
    rot(pack, pack.stat().st_size // 2)
    how = "folder" if to.endswith("folder") else None
    with pytest.raises(
        casstore.IntegrityError, match=r"sub/w of bert:v1 cannot be read: .*`casstore verify` names every"
    ):
        store.export("bert:v1", to.format(tmp_path), format=how)


def test_a_signature_of_what_is_damaged_names_the_file(
    store: casstore.Store, save: Save, rot: Rot, tmp_path: Path
) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric import ec

    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, form, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(key)
    save("bert:v1", {"sub/w": noise(200_000), "a": b"1"}, materialize=False)
    [pack] = (store.home / "objects/packs").iterdir()
    rot(pack, pack.stat().st_size // 2)
    with pytest.raises(casstore.IntegrityError, match=r"sub/w cannot be read: .*`casstore verify` names every"):
        store.sign("bert:v1", tmp_path / "key.pem")


def test_a_file_system_that_keeps_no_modes_takes_it_in(
    store: casstore.Store, save: Save, other: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save("bert:v1", FILES)
    store.export("bert:v1", f"oci:{tmp_path / 'out'}")
    monkeypatch.setattr(files, "set_mode", lambda *_: None)
    [came] = other.import_archive(f"oci:{tmp_path / 'out'}")
    assert contents(came.model) == contents(model)
