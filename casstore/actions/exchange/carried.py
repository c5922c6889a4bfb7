"""Signatures that travel with a version in an archive: files beside its `model.yaml`, which names them.

Only what the descriptor names is taken for a signature. A version may have a file `model.sig` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from casstore.actions import checksums, signatures
from casstore.actions.describing import model_yaml
from casstore.actions.describing.model_yaml import Descriptor
from casstore.actions.exchange.arrivals import Arrival
from casstore.actions.sources.source import Source, find_source
from casstore.actions.workspace import Workspace
from casstore.archive.model_signing import MAX_BUNDLE_BYTES, MOST_OF_ONE, file_name
from casstore.catalog.versions import VersionRow
from casstore.errors import InvalidSignature, UnsafeArchive
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.manifest import Manifest
from casstore.storage.names import as_stored
from casstore.storage.sessions import Session


class Signed(NamedTuple):
    """A descriptor as it goes into an archive, and the signatures that it names, each with its file's name."""

    descriptor: bytes
    signatures: list[tuple[str, bytes]]


def signed(workspace: Workspace, row: VersionRow, paths: Iterable[str]) -> Signed:
    """What goes into an archive beside the files of a version, which are at these paths."""
    descriptor = model_yaml.render(workspace.catalog.versions.manifest(row, {}))
    kept = signatures.kept(workspace.layout, row.digest)[:MOST_OF_ONE]
    taken = {path.partition("/")[0].casefold() for path in paths}
    free = (name for name in map(file_name, range(1, len(taken) + len(kept) + 2)) if name not in taken)
    named = [(name, each.bundle) for name, each in zip(free, kept, strict=False)]
    return Signed(model_yaml.naming_signatures(descriptor, [name for name, _ in named]), named)


class Admitted(NamedTuple):
    """Signatures that came with a version and are to be kept, and what is to be said of those that are not."""

    bundles: list[bytes]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, came: Iterable[tuple[str, bytes]]) -> Admitted:
        judged = list(signatures.readable(came))
        return cls([data for _, data, fault in judged if not fault], tuple(fault for *_, fault in judged if fault))

    def kept(self, workspace: Workspace, session: Session, arrival: Arrival) -> Arrival:
        """Keep them with the version that has arrived. Raises OSError."""
        too_many = signatures.keep(workspace, session, arrival.row.digest, self.bundles)
        return replace(arrival, notes=(*arrival.notes, *self.notes, *too_many))


def admit(workspace: Workspace, draft: Path, described: Descriptor, name: str, *, is_our_own: bool) -> Admitted:
    """Take the signatures out of a version's files in `draft`, and check them if the store says that it must be signed.

    What `is_our_own` need not be.

    Raises InvalidSignature, UnsafeArchive, InvalidSource, OSError.
    """
    came = [(each, _taken_out(draft / each, name)) for each in described.signatures]

    def digests(hash_name: str) -> dict[str, str]:
        found = {file.disk_path: as_stored(file.path) for file in find_source(draft).files}
        computed = checksums.of_files(list(found), checksums.HASHERS[hash_name])
        return {found[str(path)]: digest.hex() for path, digest in computed}

    if not is_our_own:
        check(workspace, [data for _, data in came], digests, name)
    return Admitted.of(came)


def check_arrived(
    workspace: Workspace, manifest: Manifest, bundles: Sequence[bytes], name: str, progress: Progress
) -> None:
    """Check a version as `check` does, whose chunks are here and which is not saved yet.

    Raises InvalidSignature, InvalidSource, IntegrityError, OSError.
    """

    def digests(hash_name: str) -> dict[str, str]:
        recipes = {file.digest: manifest.recipe_of(file) for file in manifest.files}
        computed = dict(checksums.hashed(workspace, list(recipes.values()), checksums.HASHERS[hash_name], progress))
        return {as_stored(file.path): computed[file.digest].hex() for file in manifest.files}

    check(workspace, bundles, digests, name)


def check(
    workspace: Workspace, bundles: Sequence[bytes], digests: Callable[[str], Mapping[str, str]] | None, name: str
) -> None:
    """Raise InvalidSignature where the store imports only what is signed, and this is not. `digests`: see `valid`."""
    keys = signatures.required(workspace)
    if keys is not None:
        try:
            signatures.valid(bundles, keys, digests)
        except InvalidSignature as error:
            raise InvalidSignature(
                f"{name} is not imported, as the store takes only what is signed: {error}"
            ) from error


def _taken_out(path: Path, name: str) -> bytes:
    try:
        data = files.read_file(path, MAX_BUNDLE_BYTES, follow=False)
    except FileNotFoundError as error:
        raise UnsafeArchive(f"{name} names the signature {path.name}, which is not in it or too large") from error
    files.remove_file(path)
    return data


def copy_source(source: Source, draft: Path) -> None:
    """Copy what was found into an empty directory, which nothing else writes to. Raises OSError."""
    for each in source.empty_directories:
        files.make_directory(draft / each, parents=True)
    for file in source.files:
        files.make_directory((draft / file.path).parent, parents=True)
        with files.open_regular(file.disk_path) as original, files.create_file(draft / file.path) as copy:
            files.copy_file(original, copy)
            files.set_mode(copy, 0o700 if files.is_executable(file.status) else 0o600)
