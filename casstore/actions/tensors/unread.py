"""What of a version's weights cannot be read as tensors, or is missing: so that the others are not taken for all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from casstore.actions.tensors.names import DamagedRead, Names, Within
from casstore.actions.tensors.placed import Placed
from casstore.storage.manifest import FileEntry
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.elements import find_segments
from casstore.storage.tensors.unread import Why, kind_by_name, why_unread

# Whose tensors are the weights, where a version has files in several formats: of PyTorch's, optimizers are one too.
PREFERRED = ("safetensors", "gguf", "torch", "npz")

_MAX_INDEX_BYTES = 64 << 20
_INDEX_ENDS = {"safetensors": ".safetensors.index.json", "torch": ".bin.index.json"}


class Fault(NamedTuple):
    """Why tensors of a file cannot be read, what to do about it, and their names, None where those are not known."""

    why: Why
    names: frozenset[str] | None = None

    def is_of(self, match: str | None) -> bool:
        """Whether it may be about tensors of that pattern."""
        if match is None:
            return True
        if match.startswith("data/"):  # storages, by the names that they have where no parameter's is known
            return False
        return self.names is None or any(fnmatchcase(name, match) for name in self.names)

    def told(self, path: str, version: str) -> str:
        """The message."""
        said, reader = self.why
        reads = "save it again" if reader is None else f"{reader}(model.open({path!r})) reads it"
        return f"{path} of {version} {said}; {reads}, or name other files: file="


class Index(NamedTuple):
    """What says in which file each tensor is: an index of shards, or torch.distributed.checkpoint's `.metadata`."""

    path: str
    file_of: Sequence[tuple[str, str]]
    is_of_shards: bool = True

    @property
    def files(self) -> frozenset[str]:
        return frozenset(file for _, file in self.file_of)


class Unread:
    """The formats of a version's files, and what of them cannot be read. A file is looked at when it is asked for."""

    def __init__(
        self, files: Sequence[FileEntry], recipe_of: Callable[[FileEntry], Recipe], names: Names, within: Within
    ) -> None:
        self._names = names
        self._within = within
        self._recipes = {file.path: recipe_of(file) for file in files}
        kinds = {path: _kind(path, recipe) for path, recipe in self._recipes.items()}
        self.kinds = {path: kind for path, kind in kinds.items() if kind is not None}
        self._faults: dict[str, Fault | None] = {}
        self._indexes: dict[str, list[Index]] = {}

    def fault(self, path: str, placed: Sequence[Placed]) -> Fault | None:
        """What of a file's tensors cannot be read, beside those that are known. Raises IntegrityError, OSError."""
        if path not in self._faults:
            try:
                self._faults[path] = self._fault(path, self.kinds[path], placed)
            except DamagedRead as failed:
                raise failed.error from None
        return self._faults[path]

    def _fault(self, path: str, kind: str, placed: Sequence[Placed]) -> Fault | None:
        recipe = self._recipes[path]
        if kind == "npz" or not placed:
            with self._within.opened(path, recipe) as read:
                why = why_unread(read, recipe.size, path, kind)
            if why is not None:
                return Fault(why)
        if kind != "torch" or path.endswith(".distcp") or recipe.plan.startswith("zips/"):
            return None
        named = self._names.of(path, recipe, self._within)
        known = {each.info.name for each in placed}
        lost = [*self._names.unread(path, recipe, self._within), *(name for name in named if name not in known)]
        storages = [each.info.name for each in placed if not each.is_pickled]
        if lost:
            said = f"has tensors of a kind that cannot be read here, such as {lost[0]!r}"
            return Fault(Why(said, "torch.load"), frozenset(lost))
        if storages:
            said = f"has tensors whose names are not known, such as {storages[0]!r}"
            return Fault(Why(said, "torch.load"), frozenset(storages) if named else None)
        return None

    def can_be_parsed(self, path: str) -> bool:
        """Whether a file is of a known format, though it may hold no tensors. Raises IntegrityError, OSError."""
        recipe = self._recipes[path]
        try:
            with self._within.opened(path, recipe) as read:
                return find_segments(read, recipe.size) is not None
        except DamagedRead as failed:
            raise failed.error from None

    def indexes(self, kinds: Iterable[str] = PREFERRED) -> list[Index]:
        """Each index of these formats' files that can be read. Raises IntegrityError, OSError."""
        try:
            for kind in kinds:
                if kind not in self._indexes:
                    self._indexes[kind] = list(self._read_indexes(kind))
        except DamagedRead as failed:
            raise failed.error from None
        return [index for kind in kinds for index in self._indexes[kind]]

    def _read_indexes(self, kind: str) -> Iterator[Index]:
        for path, recipe in self._recipes.items():
            directory, slash, name = path.rpartition("/")
            place = f"{directory}{slash}"
            is_metadata = kind == "torch" and name == ".metadata" and self._is_distributed(place)
            if is_metadata:
                places = self._names.places(path, self._within)[1]
                shards = [(each.name, shard) for shard, inside in places.items() for each in inside]
            elif name.endswith(_INDEX_ENDS.get(kind, "/")) and recipe.size <= _MAX_INDEX_BYTES:
                with self._within.opened(path, recipe) as read:
                    shards = _shards(read(0, recipe.size))
            else:
                continue
            file_of = [(tensor, f"{place}{shard}") for tensor, shard in shards if ".." not in shard]
            if file_of:
                yield Index(path, file_of, is_of_shards=not is_metadata)

    def _is_distributed(self, place: str) -> bool:
        return any(path.startswith(place) and path.endswith(".distcp") for path in self._recipes)


def _kind(path: str, recipe: Recipe) -> str | None:
    kind = recipe.plan.partition("/")[0].replace("zips", "torch")
    return kind if kind in PREFERRED else kind_by_name(path)


def _shards(content: bytes) -> list[tuple[str, str]]:
    """What an index says: tensor and shard; nothing where it is none."""
    try:
        return [(str(name), str(shard)) for name, shard in json.loads(content)["weight_map"].items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
