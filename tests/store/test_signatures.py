"""Signatures of versions: made, kept, carried along and checked, and everything that is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.actions import signatures
from casstore.archive.model_signing import Bundle, read_public_keys, sign
from tests.kit import Picture, Save, contents, noise

pytest.importorskip("cryptography")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

BIG = noise(200_000)
FILES = {"w": BIG, "sub/a b": b"1", ".gitattributes": b"x", "model.sig": b"mine", "nothing": b"", "run.sh!": b"1"}
FORMATS = ("tar", "tar.zst", "zip", "bentomodel", "folder", "casmodel", "oci")


class Pair:
    """A private key and its public one, each in a file."""

    def __init__(self, directory: Path, name: str, key: Any = None, password: bytes | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        self.private, self.public = directory / f"{name}.pem", directory / f"{name}.pub"
        encryption: Any = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        pkcs8 = serialization.PrivateFormat.PKCS8
        self.private.write_bytes(self.key.private_bytes(serialization.Encoding.PEM, pkcs8, encryption))
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self.pem = self.key.public_key().public_bytes(serialization.Encoding.PEM, form)
        self.public.write_bytes(self.pem)
        self.id = hashlib.sha256(self.pem).hexdigest()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir()
    return made


@pytest.fixture
def pair(keys: Path) -> Pair:
    return Pair(keys, "ours")


@pytest.fixture
def other(tmp_path: Path):
    with casstore.Store(tmp_path / "other", auto_gc=False) as opened:
        yield opened


def put(store: casstore.Store, model: casstore.Model, bundle: bytes) -> Path:
    """Keep a signature behind the store's back, in place of all others of the version."""
    room = store.home / "manifests/.signatures"
    room.mkdir(exist_ok=True)
    for path in room.glob(f"{model.digest}.*"):
        path.unlink()
    path = room / f"{model.digest}.{casstore.Digest.of(bundle).hex()[:16]}.sig"
    path.write_bytes(bundle)
    return path


def fault(store: casstore.Store, tag: str, *pairs: Pair) -> str:
    """Why a version is not signed; empty where it is."""
    report = store.verify(tag, keys=[pair.public for pair in pairs])
    [check] = report.signatures
    assert check.is_valid == report.is_sound
    assert check.tag == tag
    return check.fault


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_a_version_is_signed(store: casstore.Store, save: Save, keys: Path, curve: Any) -> None:
    model = save("bert:v1", FILES)
    pair = Pair(keys, "k", ec.generate_private_key(curve()))
    made = store.sign("bert:v1", pair.private)
    assert (made.key, made.hash, made.files) == (pair.id, "sha256", 6)
    assert store.signatures("bert") == (made,)
    assert fault(store, "bert:v1", pair) == ""
    assert store.verify().is_sound
    statement = json.loads(base64.b64decode(json.loads(made.bundle)["dsseEnvelope"]["payload"]))
    listed = {each["name"]: each["digest"] for each in statement["predicate"]["resources"]}
    found = {path: hashlib.sha256(data).hexdigest() for path, data in contents(model).items()}
    assert statement["predicate"]["casstore"]["others"] == {".gitattributes": found.pop(".gitattributes")}
    assert listed == found
    assert statement["subject"][0]["name"] == "v1"


def test_each_key_has_one_signature(store: casstore.Store, save: Save, pair: Pair, keys: Path) -> None:
    save("bert:v1", FILES)
    second = Pair(keys, "second")
    first = store.sign("bert:v1", pair.private)
    again = store.sign("bert:v1", pair.private)
    assert again != first, "ECDSA draws a number each time"
    assert store.signatures("bert:v1") == (again,)
    store.sign("bert:v1", second.private)
    assert {each.key for each in store.signatures("bert:v1")} == {pair.id, second.id}
    for one in (pair, second):
        assert fault(store, "bert:v1", one) == ""
    keys.joinpath("both.pub").write_bytes(b"a note\n" + Pair(keys, "third").pem + second.pem)
    assert store.verify("bert:v1", keys=keys / "both.pub").is_sound
    assert [event.kind for event in store.events()].count("signed") == 3


def test_blake3_takes_no_reading(store: casstore.Store, save: Save, pair: Pair) -> None:
    save("bert:v1", FILES)
    store.gc(evict_all=True)
    for path in (store.home / "objects").rglob("*.pack"):
        path.rename(path.with_suffix(".away"))
    made = store.sign("bert:v1", pair.private, hash="blake3")
    for path in (store.home / "objects").rglob("*.away"):
        path.rename(path.with_suffix(".pack"))
    assert (made.hash, fault(store, "bert:v1", pair)) == ("blake3", "")
    with pytest.raises(casstore.InvalidSource, match="'md5' is no hash for a signature"):
        store.sign("bert:v1", pair.private, hash="md5")


def test_a_signature_is_of_content(store: casstore.Store, save: Save, pair: Pair) -> None:
    save("bert:v1", FILES)
    save("bert:same", FILES, labels={"a": "b"})
    save("bert:v2", {**FILES, "w": b"other"})
    store.sign("bert:v1", pair.private)
    assert fault(store, "bert:same", pair) == ""
    assert "it is not signed; sign it with `casstore sign bert:v2 --key KEY`" in fault(store, "bert:v2", pair)
    report = store.verify(keys=pair.public)
    assert [(each.tag, each.is_valid) for each in report.signatures if not each.is_valid] == [("bert:v2", False)]
    assert not report.is_sound
    assert not report.damage
    assert not report.damaged_copies


def changed(made: casstore.Signature, pair: Pair, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A bundle by the same key whose statement says something else."""
    bundle = json.loads(made.bundle)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    kind = b"application/vnd.in-toto+json"
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    signature = pair.key.sign(signed, ec.ECDSA(hashes.SHA256()))
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return json.dumps(bundle).encode()


def test_a_signature_of_another_version_is_refused(store: casstore.Store, save: Save, pair: Pair) -> None:
    save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    for files, said in (
        ({**FILES, "w": b"other"}, "w differs"),
        ({**FILES, "more": b"1"}, "more is not in it"),
        ({path: data for path, data in FILES.items() if path != "sub/a b"}, "sub/a b is missing"),
        ({"a": b"1"}, ".gitattributes is missing, and 6 more"),
    ):
        model = save("gpt:v1", files)
        put(store, model, made.bundle)
        assert fault(store, "gpt:v1", pair) == f"its signature is not valid: it is of other files: {said}"
        store.delete("gpt:v1", now=True)


_BESIDE = (".git/config", ".github/x", ".gitattributes", ".gitignore", "model-7.sig", "model-2.sig/payload.py")


@pytest.mark.parametrize("more", _BESIDE)
def test_nothing_can_be_put_beside_what_is_signed(
    store: casstore.Store, save: Save, other: Any, pair: Pair, tmp_path: Path, more: str
) -> None:
    save("bert:v1", {"w": b"weights"})
    save("bert:v2", {"w": b"weights", more: b"1"})
    made = store.sign("bert:v1", pair.private)
    full = store.sign("bert:v2", pair.private)
    with tarfile.open(store.export("bert:v1", tmp_path / "a.tar"), "a") as archive:
        member = tarfile.TarInfo(more)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    other.set_setting("require_signature", str(pair.public))
    with pytest.raises(casstore.InvalidSignature, match=f"it is of other files: {more} is not in it"):
        other.import_archive(tmp_path / "a.tar")
    assert other.list() == []
    assert other.import_archive(store.export("bert:v2", tmp_path / "b.tar"))[0].is_new
    assert fault(other, "bert:v2", pair) == ""
    model = save("bert:v3", {"w": b"weights", more: b"evil"})
    put(store, model, full.bundle)
    assert f"{more} differs" in fault(store, "bert:v3", pair)
    # Of another program's signature, which has none of these in it.
    put(store, model, changed(made, pair, lambda statement: statement["predicate"].pop("casstore")))
    assert bool(fault(store, "bert:v3", pair)) is (more not in (".gitattributes", ".gitignore"))


def test_a_flipped_bit_is_refused(store: casstore.Store, save: Save, pair: Pair) -> None:
    model = save("bert:v1", {"w": b"weights"})
    made = store.sign("bert:v1", pair.private)
    bundle = json.loads(made.bundle)
    envelope = bundle["dsseEnvelope"]
    payload, signature = base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])
    at = payload.index(b'"tag"') + 8
    for of, data in (("payload", payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]), ("sig", signature)):
        text = base64.b64encode(data if of == "payload" else data[:-1] + bytes([data[-1] ^ 1])).decode()
        flipped = json.loads(made.bundle)
        if of == "payload":
            flipped["dsseEnvelope"]["payload"] = text
        else:
            flipped["dsseEnvelope"]["signatures"][0]["sig"] = text
        put(store, model, json.dumps(flipped).encode())
        assert fault(store, "bert:v1", pair) == (
            "its signature is not valid: it does not match what it signs: one of the two was changed"
        )


def test_every_flipped_bit_of_a_kept_file_is_seen(store: casstore.Store, save: Save, pair: Pair) -> None:
    save("bert:v1", {"w": b"weights"})
    made = store.sign("bert:v1", pair.private)
    [path] = (store.home / "manifests/.signatures").iterdir()
    path.chmod(0o644)
    for at in range(0, len(made.bundle), 97):
        flipped = bytearray(made.bundle)
        flipped[at] ^= 4
        path.write_bytes(flipped)
        assert fault(store, "bert:v1", pair) == (
            f"{path} is damaged; sign the version again, or import it with its signature"
        )
    assert not store.verify().is_sound
    report = store.verify("bert:v1")
    assert report.damaged_copies == (str(path),)
    assert not report.damage
    repaired = store.repair()
    assert [Path(each).name.startswith(path.name) for each in repaired.quarantined] == [True]
    assert store.verify().is_sound
    assert store.signatures("bert:v1") == ()


def damaged_beside(store: casstore.Store, model: casstore.Model, bundle: bytes) -> Path:
    """Keep a signature that is damaged, before all others of the version."""
    path = store.home / "manifests/.signatures" / f"{model.digest}.{'0' * 16}.sig"
    path.write_bytes(bundle[:-9])
    return path


def test_a_damaged_signature_spoils_no_other(store: casstore.Store, save: Save, pair: Pair, keys: Path) -> None:
    model = save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    path = damaged_beside(store, model, made.bundle)
    stranger = Pair(keys, "stranger")
    assert fault(store, "bert:v1", stranger).startswith(f"{path} is damaged"), "it may be the one that is asked for"
    [check] = store.verify("bert:v1", keys=pair.public).signatures
    assert check.is_valid
    assert store.verify("bert:v1").damaged_copies == (str(path),)
    store.sign("bert:v1", stranger.private)
    assert not path.exists()
    assert fault(store, "bert:v1", stranger) == fault(store, "bert:v1", pair) == ""


def test_a_version_has_a_hundred_signatures_at_most(
    store: casstore.Store, save: Save, other: Any, keys: Path, tmp_path: Path
) -> None:
    model = save("bert:v1", {"w": b"weights"})
    pairs = [Pair(keys, str(number)) for number in range(101)]
    digests = {"w": hashlib.sha256(b"weights").hexdigest()}
    bundles = [sign(each.key, "v1", digests, "sha256", {})[1] for each in pairs]
    room = store.home / "manifests/.signatures"
    room.mkdir()
    for bundle in bundles[:100]:
        (room / f"{model.digest}.{casstore.Digest.of(bundle).hex()[:16]}.sig").write_bytes(bundle)
    with pytest.raises(casstore.InvalidSource, match="bert:v1 has 100 signatures, the most that one version may have"):
        store.sign("bert:v1", pairs[100].private)
    store.sign("bert:v1", pairs[0].private)
    assert {each.key for each in store.signatures("bert:v1")} == {each.id for each in pairs[:100]}
    (room / f"{model.digest}.{casstore.Digest.of(bundles[100]).hex()[:16]}.sig").write_bytes(bundles[100])
    assert len(store.signatures("bert:v1")) == 101
    for form in ("tar", "folder", "oci"):
        [came] = other.import_archive(exported(store, "bert:v1", form, tmp_path / "out"))
        assert (came.is_new, came.notes) == (True, ())
        assert len(other.signatures("bert:v1")) == 100
        other.delete("bert:v1", now=True)
        other.gc()
    [came] = other.import_archive(exported(store, "bert:v1", "casmodel", tmp_path / "out"))
    assert came.notes == ("signatures not kept: 1; one version may have 100",)
    assert len(other.signatures("bert:v1")) == 100


def test_an_import_mends_a_damaged_signature(store: casstore.Store, save: Save, pair: Pair, tmp_path: Path) -> None:
    save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    store.export("bert:v1", tmp_path / "a.tar")
    [path] = (store.home / "manifests/.signatures").iterdir()
    path.chmod(0o644)
    path.write_bytes(made.bundle[:-9])
    assert not store.import_archive(tmp_path / "a.tar")[0].is_new
    assert path.read_bytes() == made.bundle
    assert fault(store, "bert:v1", pair) == ""


def test_a_signature_that_goes_while_it_is_listed_is_none(
    store: casstore.Store, save: Save, pair: Pair, tmp_path: Path
) -> None:
    model = save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    # Listed, and not there when it is read.
    (store.home / "manifests/.signatures" / f"{model.digest}.{'0' * 16}.sig").symlink_to("gone")
    assert fault(store, "bert:v1", pair) == ""
    assert store.signatures("bert:v1") == (made,)
    store.backup(tmp_path / "backup")


def test_an_unknown_key_is_refused(store: casstore.Store, save: Save, pair: Pair, keys: Path) -> None:
    save("bert:v1", FILES)
    store.sign("bert:v1", pair.private)
    stranger = Pair(keys, "stranger")
    assert fault(store, "bert:v1", stranger) == (
        f"its signature is not valid: it is by the key {pair.id[:16]}, and asked for is {stranger.id[:16]}"
    )
    assert fault(store, "bert:v1", stranger, pair) == ""


def test_another_key_that_claims_the_id_is_refused(store: casstore.Store, save: Save, pair: Pair, keys: Path) -> None:
    model = save("bert:v1", FILES)
    stranger = Pair(keys, "stranger")
    made = store.sign("bert:v1", stranger.private)
    put(store, model, made.bundle.replace(stranger.id.encode(), pair.id.encode()))
    assert "does not match what it signs" in fault(store, "bert:v1", pair)
    put(store, model, made.bundle.replace(stranger.id.encode(), b""))
    assert "does not match what it signs" in fault(store, "bert:v1", pair)


_CERTIFICATES: list[dict[str, Any]] = [
    {"certificate": {"rawBytes": "AA=="}},
    {"x509CertificateChain": {"certificates": []}},
]


def test_another_algorithm_is_refused(store: casstore.Store, save: Save, pair: Pair, keys: Path) -> None:
    model = save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)

    def hash_name(statement: dict[str, Any]) -> None:
        statement["predicate"]["serialization"]["hash_type"] = "blake2b"

    def shards(statement: dict[str, Any]) -> None:
        statement["predicate"]["serialization"]["method"] = "shards"

    def one(statement: dict[str, Any]) -> None:
        statement["predicate"]["resources"][0]["algorithm"] = "md5"

    def twice(statement: dict[str, Any]) -> None:
        statement["predicate"]["resources"].append(statement["predicate"]["resources"][0])

    def root(statement: dict[str, Any]) -> None:
        statement["subject"][0]["digest"]["sha256"] = "0" * 64

    def other_predicate(statement: dict[str, Any]) -> None:
        statement["predicateType"] = "https://slsa.dev/provenance/v1"

    for change, said in (
        (hash_name, "it is by another algorithm: 'files' and 'blake2b'"),
        (shards, "it is by another algorithm: 'shards' and 'sha256'"),
        (one, "it is by another algorithm: 'md5' for 'model.sig'"),
        (twice, "it contradicts itself: it names 'model.sig' twice"),
        (root, "it contradicts itself: the digest of the whole"),
        (other_predicate, "it signs something else than a model: 'https://slsa.dev/provenance/v1'"),
    ):
        put(store, model, changed(made, pair, change))
        assert said in fault(store, "bert:v1", pair)
    bundle = json.loads(made.bundle)
    for material in _CERTIFICATES:
        put(store, model, json.dumps({**bundle, "verificationMaterial": material}).encode())
        assert "it is by a certificate, such as Sigstore's" in fault(store, "bert:v1", pair)
    put(store, model, json.dumps({**bundle, "mediaType": "application/x"}).encode())
    assert "it is a bundle of the type 'application/x'" in fault(store, "bert:v1", pair)
    envelope = bundle["dsseEnvelope"]
    for number, signed in ((0, "no"), (2, "2")):
        several = {**envelope, "signatures": envelope["signatures"] * number}
        put(store, model, json.dumps({**bundle, "dsseEnvelope": several}).encode())
        said = f"there are {signed} signatures in it, and that of a model has one"
        assert said in fault(store, "bert:v1", pair)
    for data, said in (
        (b"[]", "a part of it is of another type than there should be"),
        (b"oh", "it is not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"[" * 100_000, "it is nested too deep"),
        (b"{}", "it has no 'mediaType'"),
        (json.dumps({**bundle, "dsseEnvelope": {**envelope, "payload": "."}}).encode(), "ase64"),
        (json.dumps({**bundle, "dsseEnvelope": {**envelope, "payload": "/w=="}}).encode(), "can't decode byte 0xff"),
    ):
        put(store, model, data)
        start, _, told = fault(store, "bert:v1", pair).partition(" of a model: ")
        assert start.endswith("it is damaged, or not a signature")
        assert said in told
        assert "Error(" not in told
    for number, key in enumerate((rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate())):
        other = Pair(keys, f"other{number}", key)
        with pytest.raises(casstore.InvalidSource, match="models are signed with keys on P-256, P-384 or P-521"):
            store.sign("bert:v1", other.private)
        with pytest.raises(casstore.InvalidSource, match="models are signed with keys on P-256, P-384 or P-521"):
            store.verify(keys=other.public)
    with pytest.raises(casstore.InvalidSource, match="holds a key on secp256k1"):
        store.sign("bert:v1", Pair(keys, "bitcoin", ec.generate_private_key(ec.SECP256K1())).private)


def test_keys_that_cannot_be_used(store: casstore.Store, save: Save, pair: Pair, keys: Path) -> None:
    """What is advised never writes over a key, and no one who checks is told to make one."""
    save("bert:v1", FILES)
    texts = {"text": b"text", "certificate": certificate(pair), "broken": pair.pem[:60] + pair.pem[64:]}
    for name, text in texts.items():
        (keys / name).write_bytes(text)
    (keys / "ssh").write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n")
    locked = Pair(keys, "locked", password=b"open")
    for private, password, said in (
        (keys / "none", None, r"there is no key at .*/none; make one with: openssl ecparam .* -out .*/none$"),
        (pair.public, None, "holds a public key; signatures are made with the private key that belongs to it$"),
        (keys / "certificate", None, "holds a certificate; signatures are made with the private key that belongs to"),
        (keys / "text", None, "is no private key in PEM; .* in a new file: openssl ecparam .* -out NEW_KEY.pem$"),
        (keys / "ssh", None, "holds a private key that is damaged, or not in the PEM that OpenSSL writes$"),
        (keys / "ssh", "open", "holds a private key that is damaged, or not in the PEM that OpenSSL writes$"),
        (keys, None, "holds no key: it is too large for one, or not a file$"),
        (locked.private, None, r"is encrypted; give its password with --password-file \(in Python: password=...\)$"),
        (locked.private, "", r"is encrypted; give its password with --password-file .*; the one .* given is empty$"),
        (locked.private, "shut", "cannot be decrypted with that password$"),
        (pair.private, "open", "is not encrypted; leave the password out$"),
    ):
        with pytest.raises(casstore.InvalidSource, match=said):
            store.sign("bert:v1", private, password=password)
    for public, said in (
        ("none", "there is no key at .*; it is to hold the public key of who signs, which `openssl pkey -in PRIVATE_K"),
        ("ours.pem", "holds a private key; give the public one: openssl pkey -in .*/ours.pem -pubout prints it$"),
        ("certificate", "holds a certificate; .*: openssl x509 -in .*/certificate -pubkey -noout prints it$"),
        ("text", "holds no public key in PEM; give the public key of who signs, which .* prints for them$"),
        ("broken", "holds a public key that is damaged; give the public key of who signs"),
    ):
        with pytest.raises(casstore.InvalidSource, match=said):
            store.verify(keys=keys / public)
    store.sign("bert:v1", locked.private, password="open")
    assert fault(store, "bert:v1", locked) == ""


def certificate(pair: Pair) -> bytes:
    """A certificate that the key has made for itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ours")])
    then = datetime(2026, 1, 1, tzinfo=timezone.utc)
    made = x509.CertificateBuilder(name, name, pair.key.public_key(), 1, then, then).sign(pair.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def test_stored_bytes_are_read_to_check_a_signature(store: casstore.Store, save: Save, pair: Pair, sql: Any) -> None:
    """The SHA-256 in the catalog counts for nothing: who can write to the store could change both."""
    save("bert:v1", {"w": BIG})
    store.sign("bert:v1", pair.private)
    sql("UPDATE sha256 SET sha256 = ?", (bytes(32),))
    assert fault(store, "bert:v1", pair) == ""
    model = save("bert:v2", {"w": b"evil"})
    [made] = store.signatures("bert:v1")
    put(store, model, made.bundle)
    good, evil = hashlib.sha256(BIG).digest(), casstore.Digest.of(b"evil")
    sql("INSERT OR REPLACE INTO sha256 VALUES (?, ?)", (evil, good))
    assert "w differs" in fault(store, "bert:v2", pair)


def test_it_comes_back_from_the_trash_and_goes_with_the_version(
    store: casstore.Store, save: Save, pair: Pair
) -> None:  # fmt: skip
    save("bert:v1", FILES)
    save("bert:v2", {"w": b"2"})
    store.sign("bert:v1", pair.private)
    store.sign("bert:v2", pair.private)
    store.delete("bert:v1")
    store.gc()
    store.undelete("bert:v1", as_="bert:back")
    assert len(store.list("bert")) == 2
    assert store.verify(keys=pair.public).is_sound
    store.delete("bert:v2", now=True)
    room = store.home / "manifests/.signatures"
    assert len(list(room.iterdir())) == 2
    (room / "mine").write_bytes(b"left alone")
    store.gc()
    assert sorted(path.name.partition(".")[0] for path in room.iterdir()) == sorted(
        ["mine", store.list("bert")[0].digest.hex()]
    )


@pytest.mark.parametrize("cut_short", [False, True])
def test_gc_keeps_the_signature_of_what_is_imported_meanwhile(
    store: casstore.Store, save: Save, pair: Pair, tmp_path: Path, cut_short: bool
) -> None:
    save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    place = store.export("bert:v1", tmp_path / "a.tar")
    store.delete("bert:v1", now=True)
    catalog = store._workspace.catalog
    asked = []

    def wanted() -> set[bytes]:
        found = catalog.versions.digests()
        asked.append(found)
        if len(asked) == 1:
            store.import_archive(place)  # its version is seen too late for what gc has read
        elif cut_short and len(asked) == 2:
            raise KeyboardInterrupt
        return found

    if cut_short:
        with pytest.raises(KeyboardInterrupt):
            signatures.drop_unneeded(store._workspace, wanted)
        assert store.signatures("bert:v1") == ()
    assert signatures.drop_unneeded(store._workspace, wanted) == 0
    assert store.signatures("bert:v1") == (made,)
    assert fault(store, "bert:v1", pair) == ""
    store.delete("bert:v1", now=True)
    assert signatures.drop_unneeded(store._workspace, catalog.versions.digests) == 1
    assert list((store.home / "manifests/.signatures").iterdir()) == []


def test_it_survives_rebuilding_and_is_in_backups(
    store: casstore.Store, save: Save, pair: Pair, tmp_path: Path
) -> None:  # fmt: skip
    save("bert:v1", FILES)
    save("bert:v2", {"w": b"2"})
    store.sign("bert:v1", pair.private)
    store.sign("bert:v2", pair.private)
    store.backup(tmp_path / "backup")
    with casstore.Store(tmp_path / "backup", auto_gc=False) as copy:
        assert copy.verify(keys=pair.public).is_sound
    store.delete("bert:v2", now=True)
    store.gc()
    store.sign("bert:v1", pair.private)
    store.backup(tmp_path / "backup")
    names = [
        sorted(path.name for path in (home / "manifests/.signatures").iterdir())
        for home in (store.home, tmp_path / "backup")
    ]
    assert names[0] == names[1] != []
    store.close()
    casstore.Store.rebuild_catalog(store.home)
    with casstore.Store(store.home, auto_gc=False) as again:
        assert again.verify(keys=pair.public).is_sound


def exported(store: casstore.Store, tag: str, format: str, directory: Path) -> str:
    directory.mkdir(exist_ok=True)
    if format == "oci":
        return store.export(tag, f"oci:{directory / 'layout'}")
    return store.export(tag, directory / f"a.{format}" if format != "folder" else directory / "folder", format=format)


@pytest.mark.parametrize("format", FORMATS)
def test_it_travels(store: casstore.Store, save: Save, other: Any, pair: Pair, tmp_path: Path, format: str) -> None:
    model = save("bert:v1", FILES)
    made = store.sign("bert:v1", pair.private)
    place = exported(store, "bert:v1", format, tmp_path / "out")
    [came] = other.import_archive(place)
    assert (came.model.digest, came.is_new, came.notes) == (model.digest, True, ())
    assert contents(came.model) == contents(model), "with its own model.sig"
    assert other.signatures("bert:v1") == (made,)
    assert fault(other, "bert:v1", pair) == ""
    shutil.rmtree(other.home / "manifests/.signatures")
    [again] = other.import_archive(place)
    assert not again.is_new
    assert other.signatures("bert:v1") == (made,)


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_may_take_only_what_is_signed(
    store: casstore.Store, save: Save, pair: Pair, tmp_path: Path, format: str
) -> None:
    with casstore.Store(tmp_path / "source", auto_gc=False) as source:
        for tag in ("good:1", "none:1", "wrong:1", "stranger:1"):
            save(tag, {**FILES, "tag": tag.encode()}, into=source)
        good = source.sign("good:1", pair.private)
        put(source, source.get("wrong:1"), good.bundle)
        source.sign("stranger:1", Pair(tmp_path / "keys", "stranger").private)
        places = {
            tag: exported(source, tag, format, tmp_path / tag.partition(":")[0])
            for tag in ("good:1", "none:1", "wrong:1", "stranger:1")
        }
    store.set_setting("require_signature", str(pair.public))
    save("here:1", {"a": b"1"})
    for tag, said in (
        ("none:1", "is not imported, as the store takes only what is signed: it is not signed"),
        ("wrong:1", "it is of other files: tag differs"),
        ("stranger:1", f"and asked for is {pair.id[:16]}"),
    ):
        with pytest.raises(casstore.InvalidSignature, match=said):
            store.import_archive(places[tag])
        assert [str(model.tag) for model in store.list()] == ["here:1"]
        assert not (store.home / "manifests/.signatures").exists()
    [came] = store.import_archive(places["good:1"])
    assert came.is_new
    assert fault(store, "good:1", pair) == ""
    assert not store.import_archive(places["good:1"])[0].is_new
    store.set_setting("require_signature", None)
    assert store.import_archive(places["none:1"])[0].is_new


def test_one_unsigned_version_keeps_all_of_a_casmodel_out(
    store: casstore.Store, save: Save, pair: Pair, tmp_path: Path
) -> None:
    with casstore.Store(tmp_path / "source", auto_gc=False) as source:
        for number in range(3):
            save(f"m:{number}", {"w": noise(100_000, number)}, into=source)
            if number != 1:
                source.sign(f"m:{number}", pair.private)
        source.export(["m:0", "m:1", "m:2"], tmp_path / "a.casmodel")
    store.set_setting("require_signature", str(pair.public))
    with pytest.raises(casstore.InvalidSignature, match=r"m:1 in .*a.casmodel is not imported"):
        store.import_archive(tmp_path / "a.casmodel")
    assert store.list() == []


def test_the_setting_names_keys_that_are_there(
    store: casstore.Store, save: Save, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(casstore.InvalidSource, match="there is no key at"):
        store.set_setting("require_signature", "none.pub")
    monkeypatch.chdir(pair.public.parent)
    store.set_setting("require_signature", "ours.pub")
    assert store.settings()["require_signature"] == str(pair.public)
    save("bert:v1", FILES)
    store.export("bert:v1", tmp_path / "a.tar")
    pair.public.unlink()
    with pytest.raises(casstore.InvalidSource, match=r"imports what is signed alone .* there is no key at"):
        store.import_archive(tmp_path / "a.tar")
    with pytest.raises(casstore.InvalidSetting, match="require_signature takes off or the path"):
        store.set_setting("require_signature", "")


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The tar with each member as `change` has it; None leaves it out."""
    with tarfile.open(source) as archive, tarfile.open(target, "w") as made:
        for member in archive:
            data = archive.extractfile(member)
            if data is None:
                made.addfile(member)
                continue
            new = change(member.name, data.read())
            if new is not None:
                member.size = len(new)
                made.addfile(member, io.BytesIO(new))
    return target


def test_what_a_descriptor_may_call_a_signature(
    store: casstore.Store, save: Save, other: Any, pair: Pair, tmp_path: Path
) -> None:
    save("bert:v1", {"w": BIG, "sub/x": b"1"})
    store.sign("bert:v1", pair.private)
    archive = tmp_path / "a.tar"
    store.export("bert:v1", archive)
    for text, said in (
        (b"- w\n", "names what is no signature"),
        (b"- ../model.sig\n", "names what is no signature"),
        (b"- model.sig\n- model.sig\n", "names what is no signature"),
        (b"- 1\n", "is not a list of names"),
        (b"- model-2.sig\n", "names the signature model-2.sig, which is not in it"),
    ):

        def named(name: str, data: bytes, text: bytes = text) -> bytes:
            return data.replace(b"- model.sig\n", text) if name == "model.yaml" else data

        bad = rewritten(archive, tmp_path / "bad.tar", named)
        with pytest.raises(casstore.InvalidSource, match=said):
            other.import_archive(bad)
        assert other.list() == []
    torn = rewritten(archive, tmp_path / "torn.tar", lambda name, data: b"{" if name == "model.sig" else data)
    [came] = other.import_archive(torn)
    assert came.is_new
    assert [note for note in came.notes if note.startswith("its signature model.sig is not kept: it is damaged")]
    assert other.signatures("bert:v1") == ()
    other.delete("bert:v1", now=True)
    other.set_setting("require_signature", str(pair.public))
    evil = rewritten(archive, tmp_path / "evil.tar", lambda name, data: b"2" if name == "sub/x" else data)
    with pytest.raises(casstore.InvalidSignature, match="it is of other files: sub/x differs"):
        other.import_archive(evil)
    with pytest.raises(casstore.InvalidSignature, match="it is damaged"):
        other.import_archive(torn)
    assert other.list() == []


def test_a_damaged_casmodel_is_refused(
    store: casstore.Store, save: Save, other: Any, pair: Pair, tmp_path: Path
) -> None:  # fmt: skip
    save("bert:v1", {"w": b"weights"})
    made = store.sign("bert:v1", pair.private)
    store.export("bert:v1", tmp_path / "a.casmodel")
    data = (tmp_path / "a.casmodel").read_bytes()
    at = data.index(made.bundle) + 5
    (tmp_path / "b.casmodel").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(casstore.IntegrityError, match=r"the signatures in .* are damaged"):
        other.import_archive(tmp_path / "b.casmodel")
    assert other.list() == []


def test_a_version_without_signatures_is_exported_as_before(
    store: casstore.Store, save: Save, pair: Pair, tmp_path: Path
) -> None:
    save("bert:v1", FILES)
    store.export("bert:v1", tmp_path / "a.tar")
    store.export("bert:v1", tmp_path / "a.casmodel")
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert "casstore_signatures" not in archive.extractfile("model.yaml").read().decode()  # type: ignore[union-attr]
    assert (tmp_path / "a.casmodel").read_bytes()[10:12] == b"\0\0"
    store.sign("bert:v1", pair.private)
    store.export("bert:v1", tmp_path / "b.casmodel")
    assert (tmp_path / "b.casmodel").read_bytes()[10:12] == b"\2\0"


def test_nothing_changes_where_signing_fails(
    store: casstore.Store, save: Save, picture: Picture, keys: Path
) -> None:  # fmt: skip
    save("bert:v1", FILES)
    before = picture()
    with pytest.raises(casstore.TagNotFound):
        store.sign("gpt", keys / "none")
    with pytest.raises(casstore.InvalidSource):
        store.sign("bert", keys / "none")
    assert picture() == before


def test_a_bundle_of_very_many_items_is_not_parsed() -> None:
    many = b"[" + b"[]," * 2_000_000 + b"0]"
    envelope = {
        "payloadType": "application/vnd.in-toto+json", "payload": base64.b64encode(many).decode(),
        "signatures": [{"sig": ""}],
    }  # fmt: skip
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": {},
        "dsseEnvelope": envelope,
    }  # fmt: skip
    for data in (many, json.dumps(bundle).encode()):
        with pytest.raises(casstore.InvalidSignature, match="it has too many items"):
            Bundle.parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["mediaType", "dsseEnvelope", "payload", "signatures", "sig"]), inner)
    ),
    max_leaves=12,
)


@given(document=JSON, statement=JSON)
def test_whatever_a_bundle_says_it_is_refused_in_words(document: Any, statement: Any) -> None:
    for data in (
        json.dumps(document),
        json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": {},
                "dsseEnvelope": {
                    "payloadType": "application/vnd.in-toto+json",
                    "payload": base64.b64encode(json.dumps(statement).encode()).decode(),
                    "signatures": [{"sig": ""}],
                },
            }
        ),
    ):
        with pytest.raises(casstore.InvalidSignature):
            Bundle.parse(data.encode())


def test_many_signatures_take_no_more_memory_than_one(store: casstore.Store, save: Save, pair: Pair) -> None:
    """But for their bytes: what a signature says of files takes several times these."""
    model = save("bert:v1", {"w": b"1"})
    digests = {f"{number:x}": "00" for number in range(2_000)}
    bundles = [sign(pair.key, "v1", {**digests, f"-{each}": "00"}, "sha256", {})[1] for each in range(10)]
    room = put(store, model, bundles[0]).parent
    for bundle in bundles:
        (room / f"{model.digest}.{casstore.Digest.of(bundle).hex()[:16]}.sig").write_bytes(bundle)
    public = read_public_keys([pair.public])

    def check(some: list[bytes]) -> None:
        with pytest.raises(casstore.InvalidSignature, match="it is of other files"):
            signatures.valid(some, public, lambda _: {})

    def peak(run: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            run()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    check(bundles[:1])
    assert peak(lambda: check(bundles)) < 2 * peak(lambda: check(bundles[:1]))
    assert len(store.signatures("bert:v1")) == 10
    assert peak(lambda: store.signatures("bert:v1")) < sum(map(len, bundles)) + 2 * peak(lambda: check(bundles[:1]))
