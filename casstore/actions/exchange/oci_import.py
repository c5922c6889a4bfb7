"""Reading a model out of an OCI layout, with every digest checked: what casstore has put there, or what others make."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from casstore.actions.describing import model_yaml
from casstore.actions.describing.model_yaml import Descriptor
from casstore.actions.exchange.oci_export import BLAKE3, DIGEST, DIRECTORIES
from casstore.actions.saving import comparing
from casstore.actions.sources.source import Source, SourceFile
from casstore.actions.workspace import Workspace, hash_file
from casstore.archive import limits, oci
from casstore.archive.copying import copy_links
from casstore.archive.formats import sniff
from casstore.archive.limits import Budget
from casstore.archive.model_signing import MAX_BUNDLE_BYTES
from casstore.archive.names import clean
from casstore.archive.tar import BLOCK_BYTES
from casstore.archive.unpacked_tree import UnpackedTree
from casstore.archive.unpacking import unpack_tar
from casstore.catalog.versions import VersionRow
from casstore.description import Description
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidMetadata, InvalidSource, InvalidTag, UnsafeArchive
from casstore.plain_json import parsed
from casstore.storage import files
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry, digest_of
from casstore.storage.names import as_stored
from casstore.tag import Tag, generate_version, slug

_AGAIN = "copy it again, or export it again where it came from"
_NOT_DESCRIBING = {"modelfs", "rootfs", "files"}  # what a configuration says of layers


@dataclass(slots=True)
class Artifact:
    """A model in a layout that is to be imported.

    `sha256`, `blake3`: of the files that have been read, by path; `executable`: those of them that may be run.
    """

    layout: oci.Layout
    found: oci.Artifact
    sha256: dict[str, str] = field(default_factory=dict)
    blake3: dict[str, Digest] = field(default_factory=dict)
    executable: set[str] = field(default_factory=set)

    @classmethod
    def at(cls, place: oci.Place) -> Artifact:
        """Raises InvalidSource, UnsafeArchive, IntegrityError, OSError."""
        layout = oci.Layout(place.directory)
        return cls(layout, layout.artifact(place.ref))

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def size(self) -> int:
        return sum(layer.blob.size for layer in self.found.layers)

    def present(self, workspace: Workspace, tag: Tag | None) -> VersionRow | None:
        """The version that it is, if that is saved already and can be told by SHA-256 alone; else None.

        Raises UnsafeArchive, IntegrityError, OSError.
        """
        layers = {layer.path: layer for layer in self.found.layers if layer.packed is None}
        descriptor = layers.pop(DESCRIPTOR_NAME, None)
        if descriptor is None or len(layers) + 1 != len(self.found.layers):
            return None
        described = self._read_descriptor(descriptor)
        for name in described.signatures:
            layers.pop(name, None)
        row = workspace.catalog.versions.find(tag or described.tag)
        if row is None or self.found.annotations.get(DIGEST) not in (None, row.digest.hex()):
            return None
        if comparing.difference_of_description(row, described) is not None:
            return None
        saved = {as_stored(file.path): file for file in workspace.catalog.versions.checked_files(row)}
        if saved.keys() != layers.keys() or sorted(map(as_stored, row.directory_paths())) != sorted(
            self._directories()
        ):
            return None
        known = workspace.catalog.sha256.known({file.digest for file in saved.values()})
        for path, layer in layers.items():
            sha256, is_executable = known.get(saved[path].digest), saved[path].executable
            if sha256 is None or sha256.hex() != layer.blob.sha256 or is_executable != layer.is_executable:
                return None
        return row

    def signatures(self) -> list[tuple[str, bytes]]:
        """The signatures in it, by the names of their files. Raises UnsafeArchive, IntegrityError, OSError."""
        layers = {layer.path: layer for layer in self.found.layers if layer.packed is None}
        if DESCRIPTOR_NAME not in layers:
            return []
        names = self._read_descriptor(layers[DESCRIPTOR_NAME]).signatures
        return [(name, self._read(layers[name].blob, MAX_BUNDLE_BYTES)) for name in names if name in layers]

    def unpack(self, directory: Path, budget: Budget, *, will_be_synced: bool, tag: Tag | None) -> Descriptor:
        """Write its files into an empty directory; returns what it says of them.

        Raises UnsafeArchive, IntegrityError, InvalidSource, OSError. What was written until then stays.
        """
        tree = UnpackedTree(directory, budget, will_be_synced=will_be_synced)
        for layer in self.found.layers:
            self._take(layer, tree, budget)
        for each in self._directories():
            tree.add_directory(each)
        copy_links(tree, budget)
        if tree.descriptor is not None:
            return model_yaml.read(tree.descriptor, f"{DESCRIPTOR_NAME} in {self.name}")
        if DIGEST in self.found.annotations:
            raise IntegrityError(f"{self.name} is not whole: it has lost its {DESCRIPTOR_NAME}; {_AGAIN}")
        if not tree.file_count:
            raise InvalidSource(f"{self.name} has no files, so there is no model to import")
        return self._foreign(tag)

    def check_whole(self, source: Source) -> None:
        """Raise IntegrityError unless these are the files of the version that it says it is, if it says so."""
        said = self.found.annotations.get(DIGEST)
        if said is None:
            return
        if digest_of(map(self._entry, source.files), source.empty_directories).hex() != said:
            raise IntegrityError(
                f"{self.name} is not the version that its annotation {DIGEST} says: files were taken out, added or "
                f"changed since casstore wrote it; {_AGAIN}"
            )

    def _entry(self, file: SourceFile) -> FileEntry:
        path = as_stored(file.path)
        digest = self.blake3.get(path)
        if digest is None:
            return FileEntry(
                file.path, files.is_executable(file.status), file.status.st_size, hash_file(file.disk_path)
            )
        # Not all file systems keep what may be run.
        return FileEntry(file.path, path in self.executable, file.status.st_size, digest)

    def note(self, workspace: Workspace, row: VersionRow) -> None:
        """Keep the SHA-256 of the files of the version that it has become."""
        saved = {as_stored(file.path): file.digest for file in workspace.catalog.versions.files(row.id)}
        computed = {saved[path]: bytes.fromhex(sha256) for path, sha256 in self.sha256.items() if path in saved}
        workspace.catalog.sha256.note(computed)

    def _take(self, layer: oci.Layer, tree: UnpackedTree, budget: Budget) -> None:
        with self.layout.opened(layer.blob, self.name) as descriptor:
            content = oci.Checked(descriptor, layer.blob, self.name, budget.read)
            if layer.packed is not None:
                found = sniff(content.peek(BLOCK_BYTES))
                if found not in (None, layer.packed):
                    raise InvalidSource(
                        f"a layer of {self.name} is {found.value}, and its type {layer.blob.media_type!r:.80} says "
                        f"{layer.packed.value}; unpack it with the program that made it, and save what it holds with "
                        "`casstore save NAME DIRECTORY`"
                    )
                unpack_tar(content.read, layer.packed, tree, budget)
                content.finish()
                return
            hasher = blake3()
            tree.add_file(layer.path, layer.is_executable, _hashed(content, hasher))
            said = layer.blob.annotations.get(BLAKE3)
            if said not in (None, hasher.hexdigest()):
                raise IntegrityError(f"{layer.path!r:.80} in {self.name} is not what its annotation {BLAKE3} says")
            path = clean(layer.path)
            self.sha256[path], self.blake3[path] = layer.blob.sha256, Digest.from_bytes(hasher.digest())
            if layer.is_executable:
                self.executable.add(path)

    def _read_descriptor(self, layer: oci.Layer) -> Descriptor:
        data = self._read(layer.blob, limits.MAX_DESCRIPTOR_BYTES)
        return model_yaml.read(data, f"{DESCRIPTOR_NAME} in {self.name}")

    def _read(self, blob: oci.Descriptor, most_bytes: int) -> bytes:
        if blob.size > most_bytes:
            raise UnsafeArchive(f"a file in {self.name} has {blob.size:,} bytes, and may have {most_bytes:,}")
        with self.layout.opened(blob, self.name) as descriptor:
            return b"".join(oci.Checked(descriptor, blob, self.name))

    def _directories(self) -> list[str]:
        """The empty directories. Raises UnsafeArchive."""
        with contextlib.suppress(ValueError, RecursionError):
            said = parsed(self.found.annotations.get(DIRECTORIES, "[]").encode())
            if isinstance(said, list) and all(isinstance(each, str) for each in said):
                return said
        raise UnsafeArchive(f"{self.name} names its empty directories in a way that cannot be read")

    def _foreign(self, tag: Tag | None) -> Descriptor:
        """What is kept of a model that another program has made: its configuration, as metadata.

        It has the tag that is given or, made from its name and version, the nearest. Raises InvalidSource.
        """
        config = {key: value for key, value in self.found.config.items() if key not in _NOT_DESCRIBING}
        about: dict[str, Any] = next(
            (config[key] for key in ("descriptor", "package") if isinstance(config.get(key), dict)), {}
        )
        said = {"config": config, "annotations": dict(self.found.annotations)}
        created_at_ns = _created_at_ns(about)
        try:
            description = Description(metadata={"oci": {key: value for key, value in said.items() if value}}).checked()
            made = tag or _tag(about, self.found)
        except (InvalidMetadata, InvalidTag) as error:
            raise InvalidSource(f"{self.name} cannot be imported as it is: {error}") from error
        if created_at_ns is None:
            return Descriptor(made, description, time.time_ns(), (), is_from_the_future=True)
        return Descriptor(made, description, *model_yaml.created(created_at_ns))


def _hashed(content: Iterable[bytes], hasher: blake3) -> Iterator[bytes]:
    """The pieces of a file, each of which the hasher has got before it is given."""
    for piece in content:
        hasher.update(piece)
        yield piece


def _tag(about: dict[str, Any], found: oci.Artifact) -> Tag:
    name, version = (about.get(key) for key in ("name", "version"))
    if not isinstance(name, str) or not name.strip():
        raise InvalidTag("it does not say what it is called; say it with --as NAME:VERSION (in Python: as_tag=...)")
    said = version if isinstance(version, str) and version.strip() else found.ref
    made = slug(f"{name.replace(':', '-')}:{said}" if said else name)
    part, _, version = made.partition(":")
    return Tag(part, version or generate_version())


def _created_at_ns(about: dict[str, Any]) -> int | None:
    """When it was made, if it says; what is not a time says nothing."""
    for key in ("createdAt", "created"):
        with contextlib.suppress(ValueError):
            if isinstance(about.get(key), str):
                return model_yaml.moment_ns(about[key])
    return None
