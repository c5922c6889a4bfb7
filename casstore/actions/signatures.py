"""Signatures of versions, beside the manifests in `manifests/.signatures/`: making, keeping and checking them.

A signature is of content: it lists every file with its digest. So it is kept by the digest of the version, and serves
each version of that content, under whatever tag, also one that comes back from the trash. A file is the bundle as
`model_signing` reads it; its name ends in the first digits of the bundle's own digest, which tells a damaged one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from casstore.actions import checksums, resolve
from casstore.actions.workspace import Workspace
from casstore.archive import model_signing
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import CasstoreError, IntegrityError, InvalidSignature, InvalidSource
from casstore.notebook import Shown
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.layout import Layout
from casstore.storage.manifest import FileEntry
from casstore.storage.names import as_stored
from casstore.storage.recipe import Recipe
from casstore.storage.sessions import Session

if TYPE_CHECKING:
    from casstore.archive.model_signing import Bundle, PublicKey

_log = logging.getLogger(__name__)
REQUIRED = "require_signature"  # the setting
OFF = "off"
_NAME = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{16})\.sig")
_GOING = ".going"  # in place of .sig, while gc makes sure that nothing needs it
_ASIDE = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.going")
_CHECK_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Signature(Shown):
    """A signature of a version, as it is kept: it has not been checked by a key.

    Attributes
    ----------
    key
        The SHA-256 of the public key in PEM, in hexadecimal, by which signatures name it; empty where it names none.
    hash
        The algorithm of the digests in it: sha256 or blake3.
    files
        How many files it signs.
    bundle
        The signature itself, a Sigstore bundle in JSON, which `model_signing verify` reads from a file.
    """

    key: str
    hash: str
    files: int
    bundle: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignatureCheck(Shown):
    """Whether a version is signed by one of the keys that are asked for.

    Attributes
    ----------
    tag
        The version.
    key
        The key whose signature is valid, by the SHA-256 of its PEM; empty where none is.
    fault
        What is wrong; empty where a signature is valid.
    """

    tag: str
    key: str
    fault: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether it is signed by one of the keys."""
        return not self.fault


def sign(
    workspace: Workspace, row: VersionRow, private_key: Path, password: str | None, hash_name: str, progress: Progress
) -> Signature:
    """Sign a version and keep the signature, in place of one by the same key and of those that are damaged.

    Raises InvalidSource for a key that cannot be used, TagNotFound, IntegrityError, StoreUnwritable, OSError.
    """
    if hash_name not in model_signing.HASHES:
        raise InvalidSource(f"{hash_name!r} is no hash for a signature; use {' or '.join(model_signing.HASHES)}")
    key = model_signing.read_private_key(private_key, password)
    entries = resolve.files(workspace.catalog, row)
    if hash_name == model_signing.SHA256:
        known = checksums.sha256_of(workspace, entries, progress)
        digests = {as_stored(file.path): known[file.digest].hex() for file in entries}
    else:
        digests = {as_stored(file.path): file.digest.hex() for file in entries}
    about = {"tag": str(row.tag), "digest": Digest(row.digest).hex()}
    key_id, data = model_signing.sign(key, row.version, digests, hash_name, about)
    before = [path for path, each in _sound(workspace.layout, row.digest) if each.key == key_id]
    before += faults(workspace.layout, {row.digest})
    with workspace.session() as session:
        too_many = keep(workspace, session, row.digest, [data], before)
    if too_many:
        of_it = workspace.layout.signatures / f"{row.digest.hex()}.*.sig"
        raise InvalidSource(
            f"{row.tag} has {model_signing.MOST_OF_ONE} signatures, the most that one version may have; sign it with a "
            f"key that has signed it before, or remove some of {of_it}"
        )
    for path in before:
        files.remove_file(path)
    workspace.catalog.events.note("signed", row.tag, key=key_id)
    return _shown(model_signing.Bundle.parse(data))


def keep(
    workspace: Workspace, session: Session, digest: bytes, bundles: Sequence[bytes], instead: Iterable[Path] = ()
) -> list[str]:
    """Keep signatures of a content; they are on disk when this returns. `instead`: files whose place they take.

    Returns what is to be said where there are too many. Raises OSError.
    """
    if not bundles:
        return []
    room, left_out = workspace.layout.signatures, 0
    there = {*_paths(workspace.layout, {digest.hex()})}.difference(instead)
    for data in bundles:
        path = room / f"{digest.hex()}.{_check_digits(data)}.sig"
        if path not in there and len(there) >= model_signing.MOST_OF_ONE:
            left_out += 1
            continue
        there.add(path)
        if not _is_sound(path):
            files.make_directory(room)
            mode = workspace.file_mode(executable=False)
            files.write_file(path, data, mode, temporary=session.new_path(), durable=True)
            files.sync_directory(room.parent)
    said = f"signatures not kept: {left_out}; one version may have {model_signing.MOST_OF_ONE}"
    return [said] if left_out else []


def _is_sound(path: Path) -> bool:
    try:
        read(path)
    except (FileNotFoundError, IntegrityError):
        return False
    return True


def kept(layout: Layout, digest: bytes) -> list[Signature]:
    """The signatures of a content that can be read, by their keys. Raises OSError."""
    return [each for _, each in _sound(layout, digest)]


def _shown(bundle: Bundle) -> Signature:
    return Signature(bundle.key_id, bundle.hash_name, len(bundle.digests), bundle.data)


def _sound(layout: Layout, digest: bytes) -> list[tuple[Path, Signature]]:
    found = []
    for path, data in _read_all(layout, {digest})[0].items():
        try:
            found.append((path, _shown(model_signing.Bundle.parse(data))))  # what it says takes several times its bytes
        except InvalidSignature as error:
            _log.debug("%s: %s", path, error)
    return sorted(found, key=lambda each: (each[1].key, each[0].name))


def _read_all(layout: Layout, digests: Collection[bytes] | None) -> tuple[dict[Path, bytes], dict[Path, str]]:
    """The kept signatures, all or those of some contents, and what is wrong with the damaged ones. Raises OSError."""
    sound, damaged = {}, {}
    for path in _paths(layout, None if digests is None else {digest.hex() for digest in digests}):
        try:
            sound[path] = read(path)
        except FileNotFoundError:
            continue  # gc, or a new signature by the same key, has taken it away
        except IntegrityError as error:
            damaged[path] = str(error)
    return sound, damaged


def _paths(layout: Layout, digests: Collection[str] | None = None) -> list[Path]:
    """The files of all signatures, or of those of some contents."""
    names = _names(layout)
    wanted = names if digests is None else [name for name in names if name.partition(".")[0] in digests]
    return [layout.signatures / name for name in sorted(wanted) if _NAME.fullmatch(name)]


def _names(layout: Layout) -> list[str]:
    try:
        return os.listdir(layout.signatures)
    except FileNotFoundError:
        return []


def read(path: Path) -> bytes:
    """The bytes of a kept signature. Raises IntegrityError for one that is damaged, FileNotFoundError, OSError."""
    try:
        data = files.read_file(path, model_signing.MAX_BUNDLE_BYTES)
    except FileNotFoundError:
        if path.exists():
            raise IntegrityError(f"{path} is too large for a signature, or no file") from None
        raise
    except OSError as error:
        files.raise_unless_damage(error)
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    if path.name.split(".")[1] != _check_digits(data):
        raise IntegrityError(f"{path} is damaged; sign the version again, or import it with its signature")
    return data


def _check_digits(data: bytes) -> str:
    return Digest.of(data).hex()[:_CHECK_DIGITS]


def faults(layout: Layout, digests: Collection[bytes] | None = None) -> dict[Path, str]:
    """The kept signatures that are damaged, all or those of some contents, with what is wrong."""
    return _read_all(layout, digests)[1]


def drop_unneeded(workspace: Workspace, wanted: Callable[[], set[bytes]]) -> int:
    """Remove the signatures of contents that no version has; returns how many. `wanted`: the contents that some have.

    A version is there before its signature is kept, and an import takes a signature that is here for kept. So they are
    moved aside first: what the import has seen, its version is seen by now, and it goes back. Raises OSError.
    """
    room = workspace.layout.signatures
    aside = [room / name for name in _names(workspace.layout) if _ASIDE.fullmatch(name)]  # of a gc that was cut short
    listed = _paths(workspace.layout)
    if not listed and not aside:
        return 0
    needed = {digest.hex() for digest in wanted()}
    for path in listed:
        if path.name.partition(".")[0] not in needed:
            with contextlib.suppress(FileNotFoundError):  # another gc was faster
                files.rename(path, path.with_suffix(_GOING))
                aside.append(path.with_suffix(_GOING))
    needed = {digest.hex() for digest in wanted()} if aside else set()
    doomed = [path for path in aside if path.name.partition(".")[0] not in needed]
    for path in set(aside).difference(doomed):
        with contextlib.suppress(FileNotFoundError):
            if not path.with_suffix(".sig").exists():  # else it has been kept again
                files.rename(path, path.with_suffix(".sig"))
    for path in aside:
        files.remove_file(path)
    return len(doomed)


def copy(source: Layout, target: Layout, temporary: Callable[[], Path], mode: int) -> None:
    """Make another store's signatures those of this one: of a backup. Raises OSError."""
    wanted = {path.name: path for path in _paths(source)}
    there = {path.name: path for path in _paths(target)}
    for name, path in wanted.items():
        if name not in there:
            try:
                data = read(path)
            except FileNotFoundError:
                continue
            except IntegrityError as error:
                _log.warning("%s; it is not in the backup", error)
                continue
            files.make_directory(target.signatures)
            files.write_file(target.signatures / name, data, mode, temporary=temporary(), durable=True)
    for name, path in there.items():
        if name not in wanted:
            files.remove_file(path)
    if wanted:
        files.sync_directory(target.manifests)


def check(
    workspace: Workspace, rows: Sequence[VersionRow], keys: Sequence[PublicKey], progress: Progress
) -> tuple[SignatureCheck, ...]:
    """Whether these versions are signed by one of the keys. Their files are read, whatever the catalog knows of them.

    Raises OSError.
    """
    return tuple(_checked(workspace, row, keys, progress) for row in rows)


def _checked(
    workspace: Workspace, row: VersionRow, keys: Sequence[PublicKey], progress: Progress
) -> SignatureCheck:  # fmt: skip
    tag = str(row.tag)
    damaged: list[str] = []
    try:
        sound, faulty = _read_all(workspace.layout, {row.digest})
        damaged += faulty.values()
        if not sound and not damaged:
            return SignatureCheck(tag, "", f"it is not signed; sign it with `casstore sign {tag} --key KEY`")
        entries = resolve.files(workspace.catalog, row)
        key = valid(list(sound.values()), keys, lambda hash_name: digests_of(workspace, entries, hash_name, progress))
    except InvalidSignature as error:
        return SignatureCheck(tag, "", damaged[0] if damaged else str(error))
    except (CasstoreError, LookupError) as error:
        return SignatureCheck(tag, "", str(error))
    return SignatureCheck(tag, key.id)


def digests_of(
    workspace: Workspace, entries: Sequence[FileEntry], hash_name: str, progress: Progress
) -> dict[str, str]:  # fmt: skip
    """The digests of these files by path, from their bytes. Raises IntegrityError, OSError."""
    if hash_name == model_signing.SHA256:
        computed = checksums.sha256_of(workspace, entries, progress, fresh=True)
    else:
        sizes = {file.digest: file.size for file in entries}
        stored = workspace.catalog.index.recipes(sizes)
        recipes = [stored.get(digest) or Recipe.of_one_chunk(digest, size) for digest, size in sizes.items()]
        names = {file.digest: file.path for file in entries}
        computed = dict(checksums.hashed(workspace, recipes, checksums.HASHERS[hash_name], progress, names))
    return {as_stored(file.path): computed[file.digest].hex() for file in entries}


def valid(
    bundles: Sequence[bytes], keys: Sequence[PublicKey], digests: Callable[[str], Mapping[str, str]] | None
) -> PublicKey:  # fmt: skip
    """The key of the first of these signatures that is valid: by one of the keys, and of these files.

    `digests`: gives the digests of all files, by the name of a hash; None where these are not known yet: then the key
    alone is looked at. Raises InvalidSignature, saying what is wrong with one that is by such a key or else with the
    first; and what `digests` raises.
    """
    if not bundles:
        raise InvalidSignature(
            "it is not signed; sign it in the store that it comes from (casstore sign TAG --key KEY) and fetch it again"
        )
    problems: list[tuple[bool, str]] = []  # an error would hold on to all that its signature says
    known: dict[str, Mapping[str, str]] = {}
    for data in bundles:
        is_ours = False
        try:
            bundle = model_signing.Bundle.parse(data)
            key = bundle.check_key(keys)
            is_ours = True
            if digests is None:
                return key
            if bundle.hash_name not in known:
                known[bundle.hash_name] = digests(bundle.hash_name)
            bundle.check_content(known[bundle.hash_name])
            return key
        except InvalidSignature as error:
            problems.append((not is_ours, str(error)))
    _, worst = min(problems, key=lambda each: each[0])
    raise InvalidSignature(f"its signature is not valid: {worst}")


def required(workspace: Workspace) -> tuple[PublicKey, ...] | None:
    """The keys by one of which what is imported must be signed; None where the store does not say so.

    Raises InvalidSource for keys that cannot be read, OSError.
    """
    said = workspace.catalog.setting(REQUIRED)
    if said == OFF:
        return None
    try:
        return model_signing.read_public_keys([Path(said)])
    except InvalidSource as error:
        raise InvalidSource(f"this store imports what is signed alone (its setting {REQUIRED}), and {error}") from error


def readable(bundles: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes, str]]:
    """Signatures that came in by their names, each with what is wrong with it, or nothing."""
    for name, data in bundles:
        fault = ""
        try:
            model_signing.Bundle.parse(data)
        except InvalidSignature as error:
            fault = f"its signature {name} is not kept: {error}"
        yield name, data, fault
