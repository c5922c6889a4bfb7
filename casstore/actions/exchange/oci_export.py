"""Writing versions into an OCI layout: each file a blob by its SHA-256, each version an artifact of CNCF ModelPack.

Files that the layout has are not written again. The index names a version when all of it is on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from casstore.actions import loose_files, resolve
from casstore.actions.checksums import in_threads, of_file, pieces
from casstore.actions.describing import times
from casstore.actions.exchange import carried, modelpack
from casstore.actions.sources.homes import check_target
from casstore.actions.workspace import Workspace
from casstore.archive import oci
from casstore.catalog.index import Fingerprint
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource
from casstore.plain_json import canonical_json, parsed
from casstore.progress import Progress
from casstore.storage import files, unfinished
from casstore.storage.container import LINK_FROM_BYTES
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.locks import Lock
from casstore.storage.manifest import FileEntry
from casstore.storage.names import as_stored
from casstore.storage.recipe import Recipe
from casstore.tag import Tag

TAG, DIGEST, BLAKE3, DIRECTORIES = "casstore.tag", "casstore.digest", "casstore.blake3", "casstore.directories"
_REGULAR = ord("0")  # the type of a regular file, as in a tar


def export_layout(workspace: Workspace, rows: Sequence[VersionRow], place: oci.Place, progress: Progress) -> str:
    """Write versions into the layout at `place`, made where there is none; returns what names them there.

    A version gets the reference that is given, or else its version's; a reference that is there is moved, unless it is
    another version's own. Raises InvalidSource, FileExistsError for a directory that holds something else,
    IntegrityError, OSError; then the index is as it was.
    """
    refs = _refs(rows, place)
    check_target(place.directory)
    directory = Path(os.path.realpath(place.directory))
    with _layout(workspace, directory) as room:
        writing = _Writing(workspace, directory, room, progress)
        writing.check_refs({ref: row.tag for ref, row in zip(refs, rows, strict=True)}, place.ref)
        writing.place_all(rows)
        writing.list_all([(ref, writing.artifact(row, ref)) for row, ref in zip(rows, refs, strict=True)])
    return str(place._replace(ref=refs[0] if len(rows) == 1 else None))


def _refs(rows: Sequence[VersionRow], place: oci.Place) -> list[str]:
    if place.ref is not None:
        if len(rows) > 1:
            raise InvalidSource(f"{place} names one version, and {len(rows)} are to be exported; leave out the :REF")
        return [place.ref]
    refs = [oci.as_ref(row.version) for row in rows]
    if len(set(refs)) < len(refs):
        raise InvalidSource("several of these versions would get the same reference; export them one by one, with :REF")
    return refs


@contextlib.contextmanager
def _layout(workspace: Workspace, directory: Path) -> Iterator[Path]:
    """The layout, locked, and a room in it for files that are being written; a new one is gone if the block raises."""
    is_new = not os.path.lexists(directory)
    is_layout = (directory / oci.LAYOUT_NAME).is_file()
    if not is_new and not is_layout and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not an OCI layout; name a directory that is new, or an empty one")
    lock = Lock(directory / oci.LAYOUT_NAME)
    lock.acquire(f"the OCI layout {directory}")
    with lock:
        unfinished.remove_leftovers(directory)
        try:
            files.make_directory(directory / "blobs" / "sha256", parents=True)
            with unfinished.directory_in(directory) as room:
                try:
                    _begin(directory, room, 0o666 & ~workspace.umask)
                    yield room
                finally:
                    files.remove_tree(room)
        except BaseException:
            if is_new and not _lists_something(directory):
                files.remove_tree(directory)
            raise


def _begin(directory: Path, room: Path, mode: int) -> None:
    """Write what an empty layout holds, as far as it is missing. The first file is the one that is locked."""
    if not (directory / oci.INDEX_NAME).exists():
        empty = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": []}
        data = canonical_json(empty).encode()
        files.write_file(directory / oci.INDEX_NAME, data, mode, temporary=room / oci.INDEX_NAME)
    if not (directory / oci.LAYOUT_NAME).stat().st_size:
        files.append(directory / oci.LAYOUT_NAME, b'{"imageLayoutVersion":"1.0.0"}\n')
    oci.Layout(directory)


def _lists_something(directory: Path) -> bool:
    """Whether another process has put something in meanwhile."""
    try:
        return bool(oci.Layout(directory).entries())
    except (InvalidSource, OSError):
        return False


class _Writing:
    """The writing of versions into one layout. `room`: a directory in it for what is not complete."""

    def __init__(self, workspace: Workspace, directory: Path, room: Path, progress: Progress) -> None:
        self._workspace = workspace
        self._directory = directory
        self._room = room
        self._progress = progress
        self._sha256: dict[Digest, bytes] = {}
        self._recipes: Mapping[Digest, Recipe] = {}
        self._names: dict[Digest, str] = {}  # what errors call the files
        self._unsynced: list[Path] = []
        self._found_sound: dict[Fingerprint, Digest] = {}
        self._may_link = workspace.may_link()
        self._may_reflink = workspace.may_reflink()

    def check_refs(self, tags: Mapping[str, Tag], said: str | None) -> None:
        """Raise InvalidSource where a reference is that of another version, and the caller has not `said` it.

        Also where it has been said, but is the other's own, which would be left without one.
        """
        layout = oci.Layout(self._directory)
        for entry in layout.entries():
            ref = oci.ref_of(entry)
            if ref is None or ref not in tags or (found := _tag_of(layout, entry, ref)) == str(tags[ref]):
                continue
            if said is not None and (found is None or oci.as_ref(found.partition(":")[2]) != ref):
                continue
            wanted = oci.Place(self._directory, f"{tags[ref].name}-{oci.as_ref(tags[ref].version)}")
            way = "say under which reference to put" if said is None else "say another reference for"
            advice = f"{way} {tags[ref]}, as in {wanted}"
            if len(tags) > 1:
                advice = f"`casstore export {tags[ref]} {wanted}` puts {tags[ref]} there alone, under another reference"
            raise InvalidSource(f"{ref!r} is {found or 'something else'} in {self._directory}; {advice}")

    def place_all(self, rows: Sequence[VersionRow]) -> None:
        """Bring the content of every file into the layout."""
        entries: dict[Digest, FileEntry] = {}
        for row in rows:
            for file in resolve.files(self._workspace.catalog, row):
                entries[file.digest], self._names[file.digest] = file, f"{file.path} of {row.tag}"
        self._recipes = self._workspace.catalog.index.recipes(entries)
        self._sha256 = self._workspace.catalog.sha256.known(entries)
        new: dict[Digest, bytes] = {}
        self._progress.start("export", sum(file.size for file in entries.values()))
        try:
            for file, sha256 in in_threads(self._place, list(entries.values())):
                if file.digest not in self._sha256:
                    new[file.digest] = sha256
        finally:
            self._progress.finish()
            self._workspace.catalog.sha256.note(new)
            if not self._workspace.catalog.read_only:
                self._workspace.catalog.index.remember(self._found_sound)
        self._sha256.update(new)

    def _place(self, file: FileEntry) -> bytes:
        """Bring one file's content into the layout; returns its SHA-256."""
        known = self._sha256.get(file.digest)
        if known is not None and self._has_file(known, file):
            self._progress.advance(file.size)
            return known
        part = self._room / file.digest.hex()
        if self._share(file, part):
            sha256 = known if known is not None else self._read(file)
            if known is not None:
                self._progress.advance(file.size)
        else:
            with files.create_file(part) as descriptor:
                sha256 = self._read(file, descriptor)
                files.set_mode(descriptor, 0o666 & ~self._workspace.umask)
        self._settle(part, sha256.hex())
        return sha256

    def _read(self, file: FileEntry, target: int | None = None) -> bytes:
        """Read a file, into another if that is given; returns its SHA-256."""
        sha256 = hashlib.sha256()
        recipe = self._recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)
        for piece in pieces(self._workspace, recipe, self._names[file.digest]):
            if target is not None:
                files.write_all(target, piece)
            sha256.update(piece)
            self._progress.advance(len(piece))
        return sha256.digest()

    def _share(self, file: FileEntry, part: Path) -> bool:
        """Whether the file now stands at `part` as a hardlink, or with the blocks, of the store's own."""
        if file.size < LINK_FROM_BYTES or self._workspace.catalog.read_only:
            return False
        candidates = loose_files.find(self._workspace, file.digest, file.executable)
        if self._may_reflink and loose_files.reflink(self._workspace, candidates, part) is not None:
            return True
        if not self._may_link or loose_files.link(self._workspace, candidates, part) is None:
            return False
        # The new link has changed what tells that the file was not touched.
        self._workspace.catalog.index.remember({Fingerprint.of(os.lstat(part)): file.digest})
        return True

    def _has_file(self, sha256: bytes, file: FileEntry) -> bool:
        """Whether the layout has a file's content, undamaged; one that may have been touched is read.

        It will be synced, as an export that failed may have left it unsynced.
        """
        path = self._blob(sha256.hex())
        index = self._workspace.catalog.index
        try:
            with files.open_regular(path) as descriptor:
                before = Fingerprint.of(os.fstat(descriptor))
                if before.size != file.size:
                    return False
                is_known = index.fingerprints([(before.device, before.inode)]).get(before) == file.digest
                if not is_known and of_file(descriptor, hashlib.sha256) != sha256:
                    return False
                is_quiet = Fingerprint.of(os.fstat(descriptor)) == before
        except OSError as error:
            files.raise_unless_damage(error)
            return False
        if not is_known and is_quiet:
            self._found_sound[before] = file.digest
        self._unsynced.append(path)
        return True

    def _blob(self, sha256: str) -> Path:
        return self._directory / "blobs" / "sha256" / sha256

    def _settle(self, part: Path, sha256: str) -> None:
        path = self._blob(sha256)
        files.rename(part, path)
        self._unsynced.append(path)

    def _has_document(self, sha256: str, data: bytes) -> bool:
        try:
            return files.read_file(self._blob(sha256), len(data)) == data
        except OSError as error:
            files.raise_unless_damage(error)
            return False

    def _document(self, media_type: str, data: bytes, annotations: Mapping[str, str] | None = None) -> oci.Descriptor:
        sha256 = hashlib.sha256(data).hexdigest()
        if self._has_document(sha256, data):
            self._unsynced.append(self._blob(sha256))
        else:
            part = self._room / sha256
            files.write_new_file(part, data, 0o666 & ~self._workspace.umask)
            self._settle(part, sha256)
        return oci.Descriptor(media_type, sha256, len(data), annotations or {})

    def artifact(self, row: VersionRow, ref: str) -> dict[str, Any]:
        """Write the documents of a version; returns its entry of the index."""
        entries = resolve.files(self._workspace.catalog, row)
        descriptor, signatures = carried.signed(self._workspace, row, (file.path for file in entries))
        created = _time(row)
        layers = []
        for name, data in [(DESCRIPTOR_NAME, descriptor), *signatures]:
            beside = {oci.FILE_PATH: name, oci.FILE_METADATA: _metadata(name, len(data), created)}
            layers.append(self._document(modelpack.media_type(name), data, beside))
        for file in entries:
            path = as_stored(file.path)
            annotations = {
                oci.FILE_PATH: path,
                oci.FILE_METADATA: _metadata(path, file.size, created, is_executable=file.executable),
                BLAKE3: file.digest.hex(),
            }
            sha256 = self._sha256[file.digest].hex()
            layers.append(oci.Descriptor(modelpack.media_type(path), sha256, file.size, annotations))
        hub_config = next((self._content(file) for file in entries if file.path == modelpack.CONFIG_FILE), None)
        said = modelpack.config(row, entries, self._recipes, hub_config, [each.sha256 for each in layers])
        config = self._document(oci.CONFIG_TYPE, canonical_json(said).encode())
        return self._listed(row, ref, config, layers)

    def _listed(
        self, row: VersionRow, ref: str, config: oci.Descriptor, layers: Sequence[oci.Descriptor]
    ) -> dict[str, Any]:
        """Write the manifest of a version; returns its entry of the index."""
        created = _time(row)
        annotations = {
            "org.opencontainers.image.created": created,
            "org.opencontainers.image.title": row.name,
            "org.opencontainers.image.version": row.version,
            TAG: str(row.tag),
            DIGEST: row.digest.hex(),
        }
        if row.directory_paths():
            annotations[DIRECTORIES] = canonical_json([as_stored(each) for each in row.directory_paths()])
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST_TYPE,
            "artifactType": oci.ARTIFACT_TYPE,
            "config": config.document(),
            "layers": [layer.document() for layer in layers],
            "annotations": annotations,
        }
        data = canonical_json(manifest).encode()
        if len(data) > oci.MAX_DOCUMENT_BYTES:
            raise InvalidSource(f"{row.tag} has {len(layers):,} files, too many for an OCI artifact; use a .casmodel")
        blob = self._document(oci.MANIFEST_TYPE, data, {oci.REF_NAME: ref, TAG: str(row.tag)})
        return {**blob.document(), "artifactType": oci.ARTIFACT_TYPE}

    def _content(self, file: FileEntry) -> bytes | None:
        if file.size > modelpack.MAX_CONFIG_BYTES:
            return None
        recipe = self._recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)
        return b"".join(pieces(self._workspace, recipe, self._names[file.digest]))

    def list_all(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Name the artifacts in the index, in place of what has their references, once they are on disk."""
        files.sync_files(self._unsynced)
        files.sync_directory(self._directory / "blobs" / "sha256")
        files.sync_directory(self._directory / "blobs")
        path = self._directory / oci.INDEX_NAME
        index = parsed(files.read_file(path, oci.MAX_DOCUMENT_BYTES))
        refs = {ref for ref, _ in entries}
        kept = [each for each in oci.Layout(self._directory).entries() if oci.ref_of(each) not in refs]
        index["manifests"] = [*kept, *(entry for _, entry in entries)]
        mode = 0o666 & ~self._workspace.umask
        data = canonical_json(index).encode()
        files.write_file(path, data, mode, temporary=self._room / oci.INDEX_NAME, durable=True)


def _tag_of(layout: oci.Layout, entry: Mapping[str, Any], ref: str) -> str | None:
    """The tag of the version that an index lists there; None for what casstore has not written."""
    with contextlib.suppress(InvalidSource, IntegrityError, OSError):
        # Other programs copy the manifest as it is, and write an index of their own.
        return entry["annotations"].get(TAG) or layout.artifact(ref).annotations.get(TAG)
    return None


def _time(row: VersionRow) -> str:
    return times.timestamp(row.created_at_ns).isoformat().replace("+00:00", "Z")


def _metadata(path: str, size: int, created: str, *, is_executable: bool = False) -> str:
    """What a ModelPack says of a file: owners and times are not kept in a version, so they are root's and its own."""
    said = {
        "name": path.rpartition("/")[2],
        "mode": 0o755 if is_executable else 0o644,
        "uid": 0,
        "gid": 0,
        "size": size,
        "mtime": created,
        "typeflag": _REGULAR,
    }
    return canonical_json(said)
