"""Manifests: everything that makes a version, in a form from which the catalog can be rebuilt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from casstore.description import Description
from casstore.digest import HASH_NAME, Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.late_classes import dataclass
from casstore.storage import files
from casstore.storage.bounded_msgpack import Unpacking
from casstore.storage.coding import documents
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.names import as_opened, as_stored
from casstore.storage.parents import OF_BASE, Parent, packed, strict_tag, unpacked_all
from casstore.storage.recipe import Recipe
from casstore.tag import Tag

FORMAT = 1
# Bounds what a damaged manifest can make a reader allocate. A version of 10 TiB takes about 400 MB.
_MAX_MANIFEST_BYTES = 1 << 30
# Digests do not shrink, and nearly all of a large manifest is digests: a frame that says that it shrank more than this
# is a bomb. Small ones may shrink as they like, such as that of a terabyte of zeros.
_ANY_MANIFEST_BYTES = 64 << 20
_MOST_RATIO = 64
# Of lists and what is in them. A file is 5, a tensor some 12, of which no two are quite the same: the next in a row
# takes three bytes when compressed, so that what has more items than this for each byte was not written by a save. A
# terabyte of zeros has a million chunks in a few kilobytes.
_ANY_ITEMS = 2_000_000
_MOST_ITEMS_PER_BYTE = 8

# Of manifests in an archive, of which a stranger may put in as many as he likes: a chunk takes 32 bytes that do not
# shrink, so that honest ones have fewer items than bytes. Values in descriptions are what `model.yaml` may hold.
_MOST_ITEMS_PER_BYTE_TOGETHER = 1
_ANY_VALUES = 1_000_000

_T = TypeVar("_T")


@dataclass(slots=True)
class Allowance:
    """What manifests that come together may hold together beyond what follows from their size: see `unpack`."""

    document_bytes: int = _ANY_MANIFEST_BYTES
    items: int = _ANY_ITEMS
    values: int = _ANY_VALUES


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version.

    Attributes
    ----------
    path
        `/`-separated, as this process opens it. Where the locale's encoding is not UTF-8, that is not what is stored.
    executable
        Whether it may be executed.
    size
        In bytes.
    digest
        BLAKE3 of its content.
    """

    path: str
    executable: bool
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Base:
    """The version that another one came from.

    Attributes
    ----------
    tag
        Its tag.
    digest
        Its content's digest at that time.
    """

    tag: Tag
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """A version: `files` sorted by path, empty directories, recipes, description, base, and when it was made.

    `recipes` holds those of every blob of more than one chunk. Times are UTC nanoseconds since 1970. `parents`: None
    where the base is the only one, or there is none; see `said_parents`.
    """

    tag: Tag
    created_at_ns: int
    files: tuple[FileEntry, ...]
    directories: tuple[str, ...]
    recipes: Mapping[Digest, Recipe]
    description: Description
    base: Base | None = None
    casstore_version: str = ""
    newer_fields: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] | None = None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the canonical files section: equal for equal content, whatever the tag and the metadata."""
        return digest_of(self.files, self.directories)

    @property
    def came_from(self) -> tuple[Parent, ...]:
        """What the version came from: its parents, or else its base."""
        return parents_of_base(self.base) if self.parents is None else self.parents

    def recipe_of(self, file: FileEntry) -> Recipe:
        """The recipe of one of this version's files, from the manifest alone."""
        return self.recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)

    def pack(self) -> bytes:
        """Canonical msgpack, its keys sorted, in one zstd frame with a checksum."""
        file_rows, directories = self._files_section()
        document = {
            **self.newer_fields,
            "format": FORMAT,
            "requires": [],
            "hash": HASH_NAME,
            "name": self.tag.name,
            "version": self.tag.version,
            "created_at": self.created_at_ns,
            "files": file_rows,
            "directories": directories,
            "recipes": [[digest, self.recipes[digest].pack()] for digest in sorted(self.recipes)],
            "description": self.description.text,
            "base": None if self.base is None else [self.base.tag.name, self.base.tag.version, self.base.digest],
            "casstore": self.casstore_version,
        }
        if self.parents is not None:
            document["parents"] = [packed(parent) for parent in self.parents]
        plain = msgpack.packb({key: document[key] for key in sorted(document)})
        return documents.compress_document(plain)

    @classmethod
    def unpack(cls, data: bytes, allowance: Allowance | None = None) -> Manifest:
        """Read what `pack` wrote, trusting nothing; fields that a newer casstore added are kept.

        What it takes of the `allowance` is gone for those after it. Raises IntegrityError, and UnsupportedFormat for a
        manifest that requires what this release does not know.
        """
        try:
            most_bytes = max(_ANY_MANIFEST_BYTES, _MOST_RATIO * len(data))
            most_items = _ANY_ITEMS + _MOST_ITEMS_PER_BYTE * len(data)
            if allowance is not None:
                most_bytes = allowance.document_bytes + _MOST_RATIO * len(data)
                most_items = allowance.items + _MOST_ITEMS_PER_BYTE_TOGETHER * len(data)
            plain = documents.decompress_document(data, min(_MAX_MANIFEST_BYTES, most_bytes))
            unpacking = Unpacking(most_items)
            document = unpacking.unpack(plain)
            if allowance is not None:
                text = document["description"]
                values = text.count(",") + text.count("[") + text.count("{")
                allowance.values -= max(0, values - len(data))  # one byte each is less than numbers take
                if allowance.values < 0:
                    raise ValueError("descriptions hold more values than there can be")
            if document.pop("format") != FORMAT or document.pop("requires") or document.pop("hash") != HASH_NAME:
                raise UnsupportedFormat("a manifest was written by a newer casstore; upgrade this one")
            said_base = document.pop("base")
            base = None if said_base is None else _base(*said_base[:3])
            manifest = cls(
                tag=strict_tag(document.pop("name"), document.pop("version")),
                created_at_ns=_checked(document.pop("created_at"), int),
                files=tuple(file_entry(*row[:4]) for row in document.pop("files")),
                directories=tuple(entry_path(path) for path in _checked(document.pop("directories"), list)),
                recipes={
                    Digest.from_bytes(digest): Recipe.unpack(Digest.from_bytes(digest), recipe, unpacking.unpack)
                    for digest, recipe in document.pop("recipes")
                },
                description=Description.parse(document.pop("description")),
                base=base,
                parents=said_parents(base, unpacked_all(document.pop("parents"))) if "parents" in document else None,
                casstore_version=_checked(document.pop("casstore"), str),
                newer_fields={_checked(key, str): value for key, value in document.items()},
            )
            manifest._check()
            if allowance is not None:
                allowance.document_bytes = min(allowance.document_bytes, most_bytes - len(plain))
                allowance.items = min(allowance.items, unpacking.left)
            return manifest
        except (
            msgpack.UnpackException,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            raise IntegrityError(f"a manifest cannot be read: {error}") from error

    def _check(self) -> None:
        """Raise ValueError where what was read contradicts itself."""
        if not all(-(1 << 63) <= number < 1 << 63 for number in (self.created_at_ns, self.size)):
            raise ValueError("a number is out of range")
        tree: dict[str, Any] = {DESCRIPTOR_NAME: None}
        for path in self.directories:
            _directory(tree, path.split("/"))
        for file in self.files:
            *parents, name = file.path.split("/")
            directory = _directory(tree, parents)
            if name in directory:
                raise ValueError(f"{file.path!r} stands twice")
            directory[name] = None
        for file in self.files:
            if self.recipe_of(file).size != file.size:
                raise ValueError(f"the recipe of {file.path!r} does not add up to its size")

    def _files_section(self) -> list[Any]:
        return files_section(self.files, self.directories)


def parents_of_base(base: Base | None) -> tuple[Parent, ...]:
    """What a version came from of which nothing but its base is said."""
    return () if base is None else (Parent(OF_BASE, base.tag, base.digest),)


def said_parents(base: Base | None, parents: tuple[Parent, ...]) -> tuple[Parent, ...] | None:
    """The parents as a manifest has them: None where they follow from the base, so that each has one form."""
    return None if parents == parents_of_base(base) else parents


def files_section(files: Iterable[FileEntry], directories: Iterable[str]) -> list[Any]:
    """The section whose digest is that of the version: its files, sorted by path, and its empty directories."""
    rows = [[as_stored(file.path), file.executable, file.size, file.digest] for file in files]
    return [rows, [as_stored(path) for path in directories]]


def digest_of(files: Iterable[FileEntry], directories: Iterable[str]) -> Digest:
    """The digest of a version with these files, sorted by path, and empty directories."""
    return Digest.of(msgpack.packb(files_section(files, directories)))


def read_manifest_file(path: Path) -> bytes:
    """The bytes of a manifest's file, as `Manifest.unpack` takes them. Raises OSError."""
    return files.read_file(path, _MAX_MANIFEST_BYTES)


def file_entry(path: str, executable: bool, size: int, digest: bytes) -> FileEntry:
    """One row of the files section. Raises ValueError, TypeError for what no version can have."""
    if _checked(size, int) < 0:
        raise ValueError(f"the file {path!r} has a negative size")
    return FileEntry(entry_path(path), bool(executable), size, Digest.from_bytes(_checked(digest, bytes)))


def _directory(tree: dict[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    """The directory of these parts in a tree of dicts, in which files are None."""
    for part in parts:
        below = tree.setdefault(part, {})
        if below is None:
            raise ValueError(f"{part!r} is a file and a directory")
        tree = below
    return tree


def entry_path(path: str) -> str:
    """A stored path that stays below a version's directory, as this process opens it.

    Raises ValueError for any other path, TypeError for a value that is not text.
    """
    _checked(path, str)
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"nothing in a version can be called {path!r}")
    return as_opened(path)


def _base(name: str, version: str, digest: bytes) -> Base:
    return Base(strict_tag(name, version), Digest.from_bytes(digest))


def _checked(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.80} is not a {kind.__name__}")
    return value
