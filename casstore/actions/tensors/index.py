"""All tensors of a version, and which one is meant by a name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

from casstore.actions.tensors.info import TensorInfo
from casstore.actions.tensors.names import DamagedRead, Names, Within, reading
from casstore.actions.tensors.placed import Placed, empty_one, has_tensors, placed_in
from casstore.digest import Digest
from casstore.storage.manifest import FileEntry
from casstore.storage.objects import Objects
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.elements import find_empty, may_have_empty
from casstore.storage.tensors.headers import check_header
from casstore.storage.tensors.segments import ReadAt

_MAX_INDEX_BYTES = 64 << 20
_INDEX_ENDS = (".safetensors.index.json", ".bin.index.json")
# To compare a name with so many takes a tenth of a second.
_MOST_COMPARED = 5000
_FORMATS = "safetensors, GGUF, PyTorch's zip archives and npz"
# Whose tensors are the weights, where a version has files in several formats: of PyTorch's, optimizers are one too.
_PREFERRED = ("safetensors", "gguf", "torch", "npz")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files of a version are read. `recipes` gives those of some of its files, by blob."""

    name: str
    files: Sequence[FileEntry]
    objects: Objects
    recipes: Callable[[Collection[FileEntry]], Mapping[Digest, Recipe]]
    confirmed: set[Digest] = field(default_factory=set)

    def confirm(self, found: Found) -> None:
        """Compare what the catalog or a remote says of a file's tensors with its header, once for each file.

        Raises IntegrityError, OSError.
        """
        recipe = found.recipe
        if recipe.blob in self.confirmed:
            return
        name = f"{found.info.file} of {self.name}"
        try:
            with reading(self.objects, recipe, name) as read:
                check_header(recipe, read, name, f"model.open({found.info.file!r}) reads the file's bytes")
        except DamagedRead as failed:
            raise failed.error from None
        self.confirmed.add(recipe.blob)


class Found(NamedTuple):
    """A tensor, and the content of the file in which it stands."""

    placed: Placed
    recipe: Recipe

    @property
    def info(self) -> TensorInfo:
        return self.placed.info


class TensorNotThere(KeyError):
    """A version has no tensor of that name."""

    def __str__(self) -> str:
        return str(self.args[0])  # without the quotes that Python puts around a key


class Tensors:
    """The tensors of a version, found once. Threads may share it."""

    def __init__(self, source: Source) -> None:
        """Raises IntegrityError, OSError."""
        self.source = source
        self.all: list[Found] = []
        names = Names()
        self._recipes = recipes = source.recipes(source.files)
        within = Within(partial(_recipe_at, {file.path: file for file in source.files}, recipes), self._opened)
        for file in source.files:
            recipe = recipes.get(file.digest)
            if recipe is not None and has_tensors(recipe):
                self.all += [Found(placed, recipe) for placed in self._in_file(file.path, recipe, names, within)]
        self._by_name: dict[str, list[Found]] = {}
        for each in self.all:
            self._by_name.setdefault(each.info.name, []).append(each)
        self._weights: frozenset[str] | None = None

    def _opened(self, path: str, recipe: Recipe) -> AbstractContextManager[ReadAt]:
        return reading(self.source.objects, recipe, f"{path} of {self.source.name}")

    def _in_file(self, path: str, recipe: Recipe, names: Names, within: Within) -> list[Placed]:
        try:
            found = [*placed_in(path, recipe, names.of(path, recipe, within))]
            if may_have_empty(recipe):
                with self._opened(path, recipe) as read:
                    found += [empty_one(path, each) for each in find_empty(read, recipe.size)]
                found.sort(key=lambda each: (each.start, each.info.size))
        except DamagedRead as failed:
            raise failed.error from None
        return found

    def select(self, match: str | None, file: str | None) -> list[Found]:
        """Those whose names, and whose files' paths, match patterns as of a shell; in their order."""
        return [
            each
            for each in self.all
            if (match is None or fnmatchcase(each.info.name, match)) and (file is None or _fits(each.info.file, file))
        ]

    def named(self, name: str, file: str | None) -> Found:
        """The tensor of that name. Raises TensorNotThere, and ValueError where several files have different ones."""
        found = [each for each in self._by_name.get(name, ()) if file is None or _fits(each.info.file, file)]
        if not found:
            raise TensorNotThere(self._not_there(name, file))
        if len(found) > 1 and not _are_same(found):
            found = [each for each in found if each.info.file in self.weight_files()] or found
        if not _are_same(found):
            raise ValueError(f"{_several(self.source.name, found)}; say which is meant: file={found[0].info.file!r}")
        return found[0]

    def weights(self, match: str | None, file: str | None) -> dict[str, Found]:
        """By name what is loaded together: of files that match `file` or, without it, of those that hold the weights.

        Raises ValueError where two files have different tensors of one name.
        """
        chosen: dict[str, list[Found]] = {}
        weights = self.weight_files() if file is None else None
        for each in self.select(match, file):
            if weights is None or each.info.file in weights:
                chosen.setdefault(each.info.name, []).append(each)
        for found in chosen.values():
            if not _are_same(found):
                raise ValueError(
                    f"{_several(self.source.name, found)}; say which file is meant, or a pattern of several: "
                    f"file={found[0].info.file!r}"
                )
        return {name: found[0] for name, found in chosen.items()}

    def weight_files(self) -> frozenset[str]:
        """The files that hold the weights: of the first of these formats that there is, safetensors, GGUF, PyTorch's,
        npz; and where an index of shards stands in their directory, those that it lists."""
        if self._weights is None:
            plans = {each.info.file: each.recipe.plan.partition("/")[0].replace("zips", "torch") for each in self.all}
            chosen = next((plan for plan in _PREFERRED if plan in plans.values()), None)
            paths = {path for path, plan in plans.items() if plan == chosen}
            for file in self.source.files:
                if file.path.endswith(_INDEX_ENDS) and file.size <= _MAX_INDEX_BYTES:
                    directory = file.path.rpartition("/")[0]
                    listed = {_join(directory, shard) for shard in self._listed(file)} & paths
                    beside = {path for path in paths if path.rpartition("/")[0] == directory}
                    paths = paths - beside | listed if listed else paths
            self._weights = frozenset(paths)
        return self._weights

    def _listed(self, file: FileEntry) -> set[str]:
        """The shards that an index names; nothing where it is none."""
        recipe = self._recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)
        try:
            document = json.loads(b"".join(self.source.objects.read_blob(recipe)))
            return {str(shard) for shard in document["weight_map"].values()}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return set()

    @staticmethod
    def nearest(name: str, names: Iterable[str]) -> str | None:
        """The one of these names that may have been meant."""
        known = list(names)
        near = [each for each in known if each.lower() == name.lower() or each.endswith(f".{name}")]
        near = near or difflib.get_close_matches(name, known[:_MOST_COMPARED], n=1)
        return near[0] if near else None

    def _not_there(self, name: str, file: str | None) -> str:
        where = self.source.name if file is None else f"{file} of {self.source.name}"
        names = {each.info.name: None for each in self.select(None, file)}
        if not names:
            return f"{where} has no tensors; they are known in files of {_FORMATS}"
        near = self.nearest(name, names)
        elsewhere = sorted({each.info.file for each in self._by_name.get(name, ())})
        advice = f"did you mean {near!r}?" if near else "model.tensors() lists those there are"
        if elsewhere:
            advice = f"{elsewhere[0]} has one"
        return f"{where} has no tensor {name!r}; {advice}"


def _recipe_at(files: Mapping[str, FileEntry], recipes: Mapping[Digest, Recipe], path: str) -> Recipe | None:
    file = files.get(path)
    return None if file is None else recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _fits(path: str, pattern: str) -> bool:
    """Whether a path is meant by a path, a directory or a pattern."""
    return path == pattern or path.startswith(pattern.rstrip("/") + "/") or fnmatchcase(path, pattern)


def _are_same(found: Sequence[Found]) -> bool:
    first = found[0].info
    return all(
        (each.info.digest, each.info.dtype, each.info.shape) == (first.digest, first.dtype, first.shape)
        for each in found[1:]
    )


def _several(version: str, found: Iterable[Found]) -> str:
    paths = [each.info.file for each in found]
    return f"{paths[0]} and {paths[1]} of {version} have different tensors {next(iter(found)).info.name!r}"
