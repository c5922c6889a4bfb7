"""Signatures that stand beside a version in a remote: brought there by a push, and taken along by a pull."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from casstore.actions import signatures
from casstore.actions.exchange.arrivals import Arrival
from casstore.actions.exchange.carried import Admitted
from casstore.actions.workspace import Workspace
from casstore.archive.casmodel import MAX_SIGNATURES_BYTES
from casstore.archive.model_signing import MOST_OF_ONE
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, RemoteError
from casstore.remote import keys
from casstore.remote.backend import KeyMissing
from casstore.remote.bucket import Bucket
from casstore.remote.documents import Ref
from casstore.remote.once import create_once
from casstore.storage.manifest import Manifest


def bring(
    workspace: Workspace, bucket: Bucket, manifest: Manifest, generation: int, there: Collection[str] = ()
) -> int:
    """Bring the signatures that are kept here of a version, but for those that are `there`; returns how many.

    `generation`: under which this very version has been seen to stand. Should it be deleted meanwhile, what is brought
    belongs to nothing, since no other version ever stands there. Raises IntegrityError where something else stands in
    the place of one, OSError, RemoteError.
    """
    kept = [each.bundle for each in signatures.kept(workspace.layout, manifest.digest)]
    bundles = {keys.signature(manifest.tag, generation, Digest.of(bundle)): bundle for bundle in kept}
    missing = sorted(bundles.keys() - {*there})
    if missing and len(missing) + len(there) > MOST_OF_ONE:
        raise RemoteError(
            f"{manifest.tag} would have more than {MOST_OF_ONE} signatures in {bucket.name}, the most that one version "
            f"may have; delete it there (`casstore delete {manifest.tag} --remote`), and push it again"
        )
    for key in missing:
        if create_once(bucket.backend, key, bundles[key]) != bundles[key]:
            raise bucket.damaged_signature(manifest.tag, key)
    return len(missing)


def fetch(workspace: Workspace, bucket: Bucket, ref: Ref, there: Sequence[str]) -> Admitted:
    """The signatures under these keys, which stand beside a version; what is kept here need not come.

    Raises OSError, RemoteError.
    """
    if not there:
        return Admitted([], ())
    kept = signatures.kept(workspace.layout, ref.digest)
    here: dict[Digest | None, bytes] = {Digest.of(each.bundle): each.bundle for each in kept}
    came: list[tuple[str, bytes]] = []
    notes: list[str] = []
    left_bytes = MAX_SIGNATURES_BYTES
    for number, key in enumerate(there):
        if number == MOST_OF_ONE or left_bytes <= 0:
            notes.append(
                f"signatures not read: {len(there) - number}; one version may have {MOST_OF_ONE}, of "
                f"{MAX_SIGNATURES_BYTES >> 20} MiB together"
            )
            break
        try:
            data = here.get(keys.parse_signature(key)) or bucket.signature(ref.tag, key)
        except KeyMissing:
            continue  # the version has been deleted meanwhile
        except IntegrityError as error:
            notes.append(f"a signature is not kept: {error}")
            continue
        except RemoteError as error:
            if not error.is_refusal:
                raise
            # Whoever brought it may not have let others read it: it would keep the version from everybody.
            notes.append(f"a signature is not kept: {error}")
            continue
        left_bytes -= len(data)
        came.append((key, data))
    admitted = Admitted.of(came)
    return Admitted(admitted.bundles, (*notes, *admitted.notes))


def keep(workspace: Workspace, row: VersionRow, admitted: Admitted) -> tuple[str, ...]:
    """Keep what was fetched of a version that is here by now; returns what is to be said. Raises OSError."""
    if not admitted.bundles:
        return admitted.notes
    with workspace.session() as session:
        return admitted.kept(workspace, session, Arrival(row, False)).notes
