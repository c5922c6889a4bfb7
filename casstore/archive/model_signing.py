"""Signatures of models in the format of OpenSSF model-signing 1.1, made and checked with `cryptography` alone.

A Sigstore bundle holds a DSSE envelope, in it an in-toto statement that lists the digest of every file
(https://github.com/sigstore/model-transparency). What is made here `model_signing verify key` accepts, and what
`model_signing sign key` makes is accepted here. Keys are those that it takes: on the curves P-256, P-384 and P-521.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casstore.errors import InvalidSignature, InvalidSource
from casstore.plain_json import canonical_json, parsed
from casstore.storage import files

SHA256, BLAKE3 = "sha256", "blake3"
HASHES = (SHA256, BLAKE3)
MAX_BUNDLE_BYTES = 64 << 20
_MAX_KEY_BYTES = 1 << 20
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# The descriptor says when a version was made and is not among its files; the others `model_signing` ignores of itself.
_IGNORED = ("model.yaml", ".git", ".gitattributes", ".github", ".gitignore")
# What of that may stand beside files that another program has signed: git's own lists of names, and no more.
_MAY_BE_UNSIGNED = {".gitattributes", ".gitignore"}
MOST_OF_ONE = 100  # signatures of one version
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)
_MOST_SHOWN = 16  # digits of a key's id


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key. `id`: the SHA-256 of its PEM, in hexadecimal, by which signatures name it."""

    id: str
    key: Any


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signature, parsed but not checked: `digests` are what it says of files, by `hash_name`.

    `ignored`: the files that may be there besides; none for a signature by casstore, which has all files in it.
    `key_id`: the key that it names; empty where it names none. `is_by_certificate`: no key can check it.
    """

    data: bytes
    key_id: str
    is_by_certificate: bool
    payload: bytes
    signature: bytes
    hash_name: str
    ignored: frozenset[str]
    digests: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes) -> Bundle:
        """Raises InvalidSignature for what is damaged, of another kind, or by another algorithm."""
        try:
            document = parsed(data)
            if document["mediaType"] != _BUNDLE_TYPE:
                raise InvalidSignature(f"it is a bundle of the type {document['mediaType']!r:.80}, not {_BUNDLE_TYPE}")
            envelope = document["dsseEnvelope"]
            if envelope["payloadType"] != _PAYLOAD_TYPE:
                raise InvalidSignature(f"it signs something else than a model: {envelope['payloadType']!r:.80}")
            if len(envelope["signatures"]) != 1:
                count = len(envelope["signatures"]) or "no"
                raise InvalidSignature(f"there are {count} signatures in it, and that of a model has one")
            payload = base64.b64decode(envelope["payload"], validate=True)
            signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
            material = document["verificationMaterial"]
            key_id = (material.get("publicKey") or {}).get("hint") or ""
            said = _statement(parsed(payload))
            is_by_certificate = "publicKey" not in material
            return cls(data, _text(key_id), is_by_certificate, payload, signature, *said)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, InvalidSignature):
                raise
            raise InvalidSignature(f"it is damaged, or not a signature of a model: {_in_words(error):.120}") from error

    def check_key(self, keys: Sequence[PublicKey]) -> PublicKey:
        """The key that it is by. Raises InvalidSignature unless that is one of these, and it is as it was made."""
        if self.is_by_certificate:
            raise InvalidSignature(
                "it is by a certificate, such as Sigstore's, and casstore checks signatures by keys; `model_signing "
                "verify` checks this one"
            )
        named = [key for key in keys if self.key_id in ("", key.id)]
        if not named:
            given = " and ".join(_shown(key.id) for key in keys)
            raise InvalidSignature(f"it is by the key {_shown(self.key_id)}, and asked for is {given}")
        for key in named:
            if _verifies(key, self.signature, _encoded(self.payload)):
                return key
        raise InvalidSignature("it does not match what it signs: one of the two was changed")

    def check_content(self, digests: Mapping[str, str]) -> None:
        """Compare what it says with the digests of all files, by its `hash_name`. Raises InvalidSignature."""
        faults = [f"{path} is missing" for path in sorted(self.digests.keys() - digests.keys())]
        for path, digest in sorted(digests.items()):
            if path not in self.digests:
                faults += [] if path in self.ignored else [f"{path} is not in it"]
            elif self.digests[path] != digest:
                faults.append(f"{path} differs")
        if faults:
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            raise InvalidSignature(f"it is of other files: {faults[0]}{more}")


def file_name(number: int) -> str:
    """What the first, second ... signature of a version is called where it stands beside the files."""
    return "model.sig" if number == 1 else f"model-{number}.sig"


def sign(
    private_key: Any, name: str, digests: Mapping[str, str], hash_name: str, about: Mapping[str, str]
) -> tuple[str, bytes]:
    """Sign these digests of files; returns the id of the key, and the bundle. `about`: what else is to be in it.

    Files that `model_signing` ignores are no resources, or it would miss them; they are signed as casstore's own.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    signed = {path: digest for path, digest in sorted(digests.items()) if path.split("/")[0] not in _IGNORED}
    others = {path: digest for path, digest in digests.items() if path not in signed}
    # What signatures are called in archives: those of other keys may stand beside the one that is checked.
    beside = [name for name in map(file_name, range(1, MOST_OF_ONE + 1)) if name not in digests]
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in signed.values())).hexdigest()
    statement = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": hash_name,
                "allow_symlinks": False,
                "ignore_paths": [*_IGNORED, *beside],
            },
            "resources": [{"name": path, "algorithm": hash_name, "digest": digest} for path, digest in signed.items()],
            "casstore": {**about, "others": others},
        },
    }
    payload = canonical_json(statement).encode()
    public = _public(private_key.public_key())
    algorithm = getattr(hashes, _CURVES[private_key.curve.name])()
    signature = private_key.sign(_encoded(payload), ec.ECDSA(algorithm))
    bundle = {
        "mediaType": _BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": public.id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return public.id, canonical_json(bundle).encode() + b"\n"


def read_private_key(path: Path, password: str | None) -> Any:
    """A private key in PEM. Raises InvalidSource, OSError."""
    serialization = _serialization()
    data = _key_bytes(path, f"make one with: {_MAKE} {shlex.quote(str(path))}")  # nothing is there to be overwritten
    try:
        key = serialization.load_pem_private_key(data, password.encode() if password else None)
    except TypeError as error:  # cryptography's word for a password that is missing, or that is too much
        if password:
            raise InvalidSource(f"{path} is not encrypted; leave the password out") from error
        given = "" if password is None else "; the one that was given is empty"
        raise InvalidSource(
            f"{path} is encrypted; give its password with --password-file (in Python: password=...){given}"
        ) from error
    except ValueError as error:
        raise InvalidSource(f"{path} {_why_no_private_key(data, password)}") from error
    _check_curve(path, key, f"; make one in a new file: {_MAKE} NEW_KEY.pem")
    return key


def _why_no_private_key(data: bytes, password: str | None) -> str:
    if b"PRIVATE KEY-----" in data:
        if password and b"ENCRYPTED" in data:
            return "cannot be decrypted with that password"
        return "holds a private key that is damaged, or not in the PEM that OpenSSL writes"
    for what in ("certificate", "public key"):
        if b"-----BEGIN %s-----" % what.upper().encode() in data:
            return f"holds a {what}; signatures are made with the private key that belongs to it"
    return f"is no private key in PEM; who has none makes one in a new file: {_MAKE} NEW_KEY.pem"


def read_public_keys(paths: Iterable[Path]) -> tuple[PublicKey, ...]:
    """Every public key in these files, one or several in PEM each. Raises InvalidSource, OSError."""
    serialization = _serialization()
    found = []
    for path in paths:
        data = _key_bytes(path, f"it is to hold {_SIGNERS_KEY}")
        if b"PRIVATE KEY-----" in data:
            raise InvalidSource(
                f"{path} holds a private key; give the public one: {_to_print(path, 'pkey', '-pubout')} prints it"
            )
        blocks = _PUBLIC.findall(data)
        if not blocks:
            if b"-----BEGIN CERTIFICATE-----" in data:
                printing = _to_print(path, "x509", "-pubkey -noout")
                raise InvalidSource(f"{path} holds a certificate; give the public key in it: {printing} prints it")
            raise InvalidSource(f"{path} holds no public key in PEM; give {_SIGNERS_KEY}")
        for block in blocks:
            try:
                key = serialization.load_pem_public_key(block)
            except ValueError as error:
                raise InvalidSource(f"{path} holds a public key that is damaged; give {_SIGNERS_KEY}") from error
            _check_curve(path, key, "")
            found.append(_public(key))
    return tuple(found)


# Advice never names a file for OpenSSL to write that may be there: it would write over a key.
_MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out"
_SIGNERS_KEY = "the public key of who signs, which `openssl pkey -in PRIVATE_KEY -pubout` prints for them"


def _to_print(path: Path, command: str, options: str) -> str:
    return f"openssl {command} -in {shlex.quote(str(path))} {options}"


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise InvalidSource("signatures need the package cryptography: pip install 'casstore[sign]'") from error
    return serialization


def _key_bytes(path: Path, advice: str) -> bytes:
    try:
        return files.read_file(path, _MAX_KEY_BYTES)
    except FileNotFoundError as error:
        if path.exists():
            raise InvalidSource(f"{path} holds no key: it is too large for one, or not a file") from error
        raise InvalidSource(f"there is no key at {path}; {advice}") from error


def _check_curve(path: Path, key: Any, advice: str) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in _CURVES:
        what = type(key).__name__.removeprefix("_") if curve is None else f"a key on {curve}"
        raise InvalidSource(f"{path} holds {what}, and models are signed with keys on P-256, P-384 or P-521{advice}")


def _public(key: Any) -> PublicKey:
    serialization = _serialization()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(pem).hexdigest(), key)


def _verifies(key: PublicKey, signature: bytes, signed: bytes) -> bool:
    from cryptography import exceptions
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key.key.verify(signature, signed, ec.ECDSA(getattr(hashes, _CURVES[key.key.curve.name])()))
    except exceptions.InvalidSignature:
        return False
    return True


def _encoded(payload: bytes) -> bytes:
    """What is signed of a payload: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _statement(said: Any) -> tuple[str, frozenset[str], dict[str, str]]:
    """Hash, ignored files and digests of a statement. Raises InvalidSignature, ValueError, LookupError, TypeError."""
    if (said["_type"], said["predicateType"]) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        raise InvalidSignature(f"it signs something else than a model: {said['predicateType']!r:.80}")
    how = said["predicate"]["serialization"]
    hash_name = how["hash_type"]
    if how["method"] != "files" or hash_name not in HASHES:
        raise InvalidSignature(
            f"it is by another algorithm: {how['method']!r:.40} and {hash_name!r:.40}, and casstore knows digests of "
            "files by sha256 and blake3; sign again"
        )
    digests: dict[str, str] = {}
    joined = hashlib.sha256()
    for each in said["predicate"]["resources"]:
        name, digest = _text(each["name"]), _text(each["digest"])
        if each["algorithm"] != hash_name:
            raise InvalidSignature(f"it is by another algorithm: {each['algorithm']!r:.40} for {name!r:.80}")
        if name in digests:
            raise InvalidSignature(f"it contradicts itself: it names {name!r:.80} twice")
        digests[name] = digest
        joined.update(bytes.fromhex(digest))
    if len(said["subject"]) != 1 or said["subject"][0]["digest"]["sha256"] != joined.hexdigest():
        raise InvalidSignature("it contradicts itself: the digest of the whole is not that of the parts")
    ours = said["predicate"].get("casstore")
    if ours is None:
        return hash_name, frozenset(_MAY_BE_UNSIGNED.intersection(map(_text, how.get("ignore_paths", ())))), digests
    for name, digest in ours.get("others", {}).items():
        if name in digests:
            raise InvalidSignature(f"it contradicts itself: it names {name!r:.80} twice")
        digests[name] = _text(digest)
    return hash_name, frozenset(), digests


def _in_words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, TypeError | AttributeError):
        return "a part of it is of another type than there should be"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({error})"
    return str(error)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _shown(key_id: str) -> str:
    return key_id[:_MOST_SHOWN]
