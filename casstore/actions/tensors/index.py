"""All tensors of a version, and which one is meant by a name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from itertools import takewhile
from typing import NamedTuple

from casstore.actions.tensors.info import TensorInfo
from casstore.actions.tensors.names import DamagedRead, Names, Within, reading
from casstore.actions.tensors.placed import Placed, empty_one, has_tensors, placed_in
from casstore.actions.tensors.unread import PREFERRED, Fault, Index, Unread
from casstore.digest import Digest
from casstore.storage.manifest import FileEntry
from casstore.storage.objects import Objects
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.elements import find_empty, may_have_empty
from casstore.storage.tensors.headers import check_header
from casstore.storage.tensors.segments import ReadAt

# To compare a name with so many takes a tenth of a second.
_MOST_COMPARED = 5000
_LAYERS = 100
_FORMATS = "safetensors, GGUF, PyTorch's zip archives and npz"


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


class NoTensors(TensorNotThere):
    """The files that are meant have no tensors at all, or are not there."""


class Tensors:
    """The tensors of a version, found once. Threads may share it."""

    def __init__(self, source: Source) -> None:
        """Raises IntegrityError, OSError."""
        self.source = source
        self.all: list[Found] = []
        names = Names()
        recipes = source.recipes(source.files)
        within = Within(partial(_recipe_at, {file.path: file for file in source.files}, recipes), self._opened)
        for file in source.files:
            recipe = recipes.get(file.digest)
            if recipe is not None and has_tensors(recipe):
                self.all += [Found(placed, recipe) for placed in self._in_file(file.path, recipe, names, within)]
        self._by_name: dict[str, list[Found]] = {}
        self._by_file: dict[str, list[Placed]] = {}
        for each in self.all:
            self._by_name.setdefault(each.info.name, []).append(each)
            self._by_file.setdefault(each.info.file, []).append(each.placed)
        self._paths = {file.path for file in source.files}
        self._unread = Unread(source.files, partial(_recipe_of, recipes), names, within)

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
        """Those whose names, and whose files' paths, match patterns as of a shell; in their order. Raises TypeError."""
        _check_text("match", match)
        _check_text("file", file)
        return [
            each
            for each in self.all
            if (match is None or fnmatchcase(each.info.name, match)) and (file is None or _fits(each.info.file, file))
        ]

    def named(self, name: str, file: str | None) -> Found:
        """The tensor of that name. Raises TensorNotThere, and ValueError where several files have different ones."""
        if not isinstance(name, str):
            raise TypeError(f"the name of a tensor is text, not {name!r}; call it for each of several")
        _check_text("file", file)
        found = [each for each in self._by_name.get(name, ()) if file is None or _fits(each.info.file, file)]
        if not found:
            raise TensorNotThere(self._not_there(name, file))
        if file is None:
            self._check_better(found, name)
        if len(found) > 1 and not _are_same(found):
            weights = self._weights(None, PREFERRED)[0]
            found = [each for each in found if each.info.file in weights] or found
        if not _are_same(found):
            raise ValueError(f"{_several(self.source.name, found)}; say which is meant: file={found[0].info.file!r}")
        return found[0]

    def weights(self, match: str | None, file: str | None, formats: Sequence[str] = PREFERRED) -> dict[str, Found]:
        """By name what is loaded together: of files that match `file` or, without it, of those that hold the weights.

        Raises ValueError where two files have different tensors of one name, and where a file of the weights cannot be
        read; FileNotFoundError where a shard is missing; TensorNotThere for what an index names and no file has, and
        where nothing matches; NoTensors where there is nothing that could match.
        """
        _check_text("match", match)
        _check_text("file", file)
        weights, indexes = self._weights(file, formats)
        for path in sorted(weights):
            self._check(path, match)
        chosen: dict[str, list[Found]] = {}
        for each in self.select(match, None):
            if each.info.file in weights:
                chosen.setdefault(each.info.name, []).append(each)
        for index in indexes:
            self._check_index(index, match, chosen)
        for found in chosen.values():
            if not _are_same(found):
                raise ValueError(
                    f"{_several(self.source.name, found)}; say which file is meant, or a pattern of several: "
                    f"file={found[0].info.file!r}"
                )
        if not chosen:
            self._check_any(match, file, weights)
        return {name: found[0] for name, found in chosen.items()}

    def _weights(self, file: str | None, formats: Sequence[str]) -> tuple[set[str], list[Index]]:
        """The files that hold the weights, and the indexes that list them: without `file`, of the first of the formats
        that there is; and where an index of shards stands in their directory, those that it lists."""
        kinds = self._unread.kinds
        if file is not None:
            paths = {path for path, kind in kinds.items() if kind in formats and _fits(path, file)}
            return paths, [each for each in self._unread.indexes(formats) if _fits(each.path, file)]
        for kind in formats:
            paths = {
                path for path, its in kinds.items() if its == kind and (path in self._by_file or self._fault(path))
            }
            indexes = self._unread.indexes([kind])
            if paths or indexes:
                listing = [each for each in indexes if each.is_of_shards]
                directories = {index.path.rpartition("/")[0] for index in listing}
                paths = {path for path in paths if path.rpartition("/")[0] not in directories}
                paths.update(*(index.files & kinds.keys() for index in listing))
                return paths, indexes
        return {path for path, kind in kinds.items() if kind in formats}, []

    def _fault(self, path: str) -> Fault | None:
        return self._unread.fault(path, self._by_file.get(path, ()))

    def _check(self, path: str, match: str | None) -> None:
        """Raises ValueError where tensors of that pattern in a file cannot be read; IntegrityError, OSError."""
        fault = self._fault(path)
        if fault is not None and fault.is_of(match):
            for found in [each for each in self.all if each.info.file == path][:1]:
                self.source.confirm(found)  # a false record is another matter
            raise ValueError(fault.told(path, self.source.name))

    def _check_index(self, index: Index, match: str | None, chosen: Collection[str]) -> None:
        for name, path in index.file_of:
            if name in chosen or not (match is None or fnmatchcase(name, match)):
                continue
            where = f"{index.path} of {self.source.name} lists"
            if path not in self._paths:
                raise FileNotFoundError(
                    f"{where} {path}, which is not in the version; save it with all of its files, or name those that "
                    "are meant: file="
                )
            if index.is_of_shards:
                raise TensorNotThere(
                    f"{where} {name!r} in {path}, which has no such tensor; name the files that are meant: file="
                )

    def _check_better(self, found: Sequence[Found], name: str) -> None:
        """Raises ValueError where a file of a better format, in which a tensor may be meant, cannot be read."""
        kinds = self._unread.kinds
        rank = min(PREFERRED.index(kinds[each.info.file]) for each in found)
        for path, kind in kinds.items():
            if PREFERRED.index(kind) < rank:
                self._check(path, escape(name))

    def _check_any(self, match: str | None, file: str | None, weights: set[str]) -> None:
        """Raises TensorNotThere, or NoTensors, where there is nothing to be found; files without tensors are some."""
        names = {each.info.name: None for each in self.all if each.info.file in weights}
        where = self.source.name if file is None else f"{file} of {self.source.name}"
        if names and match is not None:
            near = self.nearest_pattern(match, names)
            advice = f"did you mean {near!r}?" if near else "model.tensors() lists those there are"
            raise TensorNotThere(f"{where} has no tensor that matches {match!r}; {advice}")
        if any(self._unread.can_be_parsed(path) for path in weights):
            return
        raise NoTensors(self._nothing(file))

    @staticmethod
    def nearest(name: str, names: Iterable[str]) -> str | None:
        """The one of these names that may have been meant."""
        known = list(names)
        near = [each for each in known if each.lower() == name.lower() or each.endswith(f".{name}")]
        if near:
            return near[0]
        # Of those of all layers, which are near alike, that of the layer that is named.
        close = difflib.get_close_matches(name, known[:_MOST_COMPARED], n=_LAYERS)
        if close:
            return max(close, key=partial(_shared, name))
        ends = {".".join(each.split(".")[-1 - name.count(".") :]): each for each in reversed(known[:_MOST_COMPARED])}
        close = difflib.get_close_matches(name, ends, n=1)
        return ends[close[0]] if close else None

    @classmethod
    def nearest_pattern(cls, match: str, names: Iterable[str]) -> str | None:
        """The pattern that may have been meant: its beginning, up to what is no text, as a name begins."""
        at = next((at for at, character in enumerate(match) if character in "*?["), len(match))
        head, rest = match[:at].rstrip("."), match[:at][len(match[:at].rstrip(".")) :] + match[at:]
        parts = head.count(".") + 1
        near = cls.nearest(head, dict.fromkeys(".".join(name.split(".")[:parts]) for name in names)) if head else None
        return None if near is None else near + rest

    def _not_there(self, name: str, file: str | None) -> str:
        where = self.source.name if file is None else f"{file} of {self.source.name}"
        names = {each.info.name: None for each in self.select(None, file)}
        if not names:
            return self._nothing(file)
        near = self.nearest(name, names)
        elsewhere = sorted({each.info.file for each in self._by_name.get(name, ())})
        advice = f"did you mean {near!r}?" if near else "model.tensors() lists those there are"
        if elsewhere:
            advice = f"{elsewhere[0]} has one"
        for path in sorted({each.info.file for each in self.all if file is None or _fits(each.info.file, file)}):
            fault = self._fault(path)
            if fault is not None and name in (fault.names or ()):
                return fault.told(path, self.source.name)
        for index in self._unread.indexes():
            for path in (path for each, path in index.file_of if each == name and path not in self._paths):
                advice = f"{index.path} lists it in {path}, which is not in the version"
        return f"{where} has no tensor {name!r}; {advice}"

    def _nothing(self, file: str | None) -> str:
        """That no file that is meant has tensors, and why."""
        if file is None:
            where, meant = self.source.name, self._paths
        else:
            where, meant = f"{file} of {self.source.name}", {path for path in self._paths if _fits(path, file)}
        if not meant and file is not None:
            directories = {path[:at] for path in self._paths for at, each in enumerate(path) if each == "/"}
            near = difflib.get_close_matches(file, sorted(self._paths | directories), n=1)
            advice = f"did you mean {near[0]!r}?" if near else "model.files lists what it has"
            return f"{self.source.name} has no file {file!r}; {advice}"
        for path in sorted(meant & self._unread.kinds.keys()):
            fault = self._fault(path)
            if fault is not None:
                return fault.told(path, self.source.name)
        return f"{where} has no tensors; they are known in files of {_FORMATS}"


def _recipe_at(files: Mapping[str, FileEntry], recipes: Mapping[Digest, Recipe], path: str) -> Recipe | None:
    file = files.get(path)
    return None if file is None else _recipe_of(recipes, file)


def _shared(name: str, other: str) -> int:
    """How many parts at the beginning of two names are equal."""
    pairs = zip(name.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _check_text(what: str, given: object) -> None:
    """Raises TypeError for what is neither text nor None."""
    if given is not None and not isinstance(given, str):
        raise TypeError(f"{what} is one text, such as a name or a pattern, not {given!r}; call it for each of several")


def _recipe_of(recipes: Mapping[Digest, Recipe], file: FileEntry) -> Recipe:
    return recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)


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
