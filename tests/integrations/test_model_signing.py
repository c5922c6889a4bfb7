"""Signatures beside the official program of OpenSSF model-signing: each accepts what the other has made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from casstore.archive.model_signing import Bundle, read_public_keys
from tests.kit import noise, plant

pytest.importorskip("model_signing._cli", reason="model-signing, or pyOpenSSL that it needs, is not installed")
from model_signing import hashing, verifying

FILES = {"w": noise(200_000), "sub/a b": b"1", ".gitattributes": b"x", "model.sig": b"mine", "run.sh!": b"1"}


def official(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    make: list[str | Path] = ["openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", private]
    subprocess.run(make, check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def test_the_official_program_accepts_what_casstore_signs(
    store: casstore.Store, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    model = store.save("bert:v1", plant(tmp_path / "source", FILES))
    made = store.sign("bert:v1", keys[0])
    signature = tmp_path / "v1.sig"
    signature.write_bytes(made.bundle)
    check = ("--signature", signature, "--public_key", keys[1])
    accepted = official("verify", "key", model.path, *check)
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    folder = store.export("bert:v1", tmp_path / "folder", format="folder")
    beside = ("--signature", Path(folder) / "model-2.sig", "--public_key", keys[1])
    assert official("verify", "key", folder, *beside).returncode == 0
    other = store.save("bert:v2", plant(tmp_path / "source", {"w": b"other"}))
    assert official("verify", "key", other.path, *check).returncode != 0
    signature.write_bytes(store.sign("bert:v1", keys[0], hash="blake3").bundle)
    config = hashing.Config().use_file_serialization(hashing_algorithm="blake3", allow_symlinks=False)
    config.set_ignored_paths(paths=[signature])
    verifying.Config().set_hashing_config(config).use_elliptic_key_verifier(public_key=keys[1]).verify(
        model.path, signature
    )


def test_casstore_accepts_what_the_official_program_signs(
    store: casstore.Store, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    model = store.save("bert:v1", plant(tmp_path / "source", FILES))
    made = official(
        "sign", "key", model.path, "--private_key", keys[0], "--signature", tmp_path / "v1.sig", "--ignore-paths",
        Path(model.path) / "model.yaml",
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    data = (tmp_path / "v1.sig").read_bytes()
    bundle = Bundle.parse(data)
    assert bundle.check_key(read_public_keys([keys[1]])).id == bundle.key_id
    room = store.home / "manifests/.signatures"
    room.mkdir()
    (room / f"{model.digest}.{casstore.Digest.of(data).hex()[:16]}.sig").write_bytes(data)
    assert store.verify("bert:v1", keys=keys[1]).is_sound
