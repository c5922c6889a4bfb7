"""Exporting versions: into one archive or folder, in one pass, with every byte checked."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from casstore.actions import resolve
from casstore.actions.describing import model_yaml
from casstore.actions.exchange import carried
from casstore.actions.exchange.casmodel_export import export_versions
from casstore.actions.exchange.oci_export import export_layout
from casstore.actions.picking import picked
from casstore.actions.sources.homes import check_target
from casstore.actions.workspace import Workspace
from casstore.archive import endpoint, formats, oci
from casstore.archive.endpoint import Endpoint
from casstore.archive.formats import Format
from casstore.archive.writing import open_writer
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError, InvalidSource, UnsafeArchive
from casstore.progress import Progress
from casstore.storage import files, unfinished
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import FileEntry
from casstore.storage.names import as_stored
from casstore.storage.objects import unreadable
from casstore.storage.recipe import Recipe

_EXTENSIONS = {Format.GZ: "tar.gz", Format.XZ: "tar.xz", Format.BZ2: "tar.bz2", Format.ZST: "tar.zst"}


@dataclass(frozen=True, slots=True)
class How:
    """How versions are to be written: in what format, or else in which by `default`, and whether with `aliases`."""

    format: Format | None = None
    default: Format = Format.CASMODEL
    aliases: bool = False


def export(workspace: Workspace, rows: Sequence[VersionRow], target: Endpoint, how: How, progress: Progress) -> str:
    """Write versions to a file, stream, URL or OCI layout; returns its endpoint. Only a `.casmodel` and an OCI layout
    hold more than one version.

    `target` may be a directory: the file in it is named after the version. An existing file is replaced once the new
    one is complete. Without a format the name's extension decides; without a known extension, `how.default`.
    Raises InvalidSource, IntegrityError, OSError; then no file is left.
    """
    if not rows:
        raise InvalidSource("there is nothing to export; name a version, or several")
    place = oci.place(target)
    if place is not None:
        if how.format is not None or how.aliases:
            raise InvalidSource(f"{target} is an OCI layout, which has no other format and holds no aliases")
        return export_layout(workspace, rows, place, progress)
    target, chosen = _resolved(target, how.format, how.default, rows)
    if len(rows) > 1 and chosen is not Format.CASMODEL:
        raise InvalidSource(f"only a .casmodel holds more than one version, and {endpoint.name_of(target)} is not one")
    if how.aliases and chosen is not Format.CASMODEL:
        raise InvalidSource(f"only a .casmodel holds aliases, and {endpoint.name_of(target)} is not one")
    path = endpoint.local_path(target)
    if path is not None and not endpoint.is_device(path):
        check_target(path)
    if chosen is Format.FOLDER:
        _write_folder(workspace, rows[0], target, progress)
        return endpoint.name_of(target)
    with endpoint.writing(target, 0o666 & ~workspace.umask) as sink:
        if chosen is Format.CASMODEL:
            export_versions(workspace, rows, sink, progress, with_aliases=how.aliases)
        else:
            _write_archive(workspace, rows[0], sink, chosen, progress)
    return endpoint.name_of(target)


def _resolved(
    target: Endpoint, format: Format | None, default: Format, rows: Sequence[VersionRow]
) -> tuple[Endpoint, Format]:
    """The target and format to write: in a directory, a file named after the version."""
    default = default if len(rows) == 1 else Format.CASMODEL
    if not isinstance(target, str | os.PathLike):
        return target, format or default
    text = os.fspath(target)
    path = endpoint.local_path(target)
    if not text or text.endswith("/") or (path is not None and path.is_dir()):
        chosen = format or default
        name = f"{rows[0].name}-{rows[0].version}"
        # BentoML writes a folder into the directory that is named, and an archive beside what is in it.
        if chosen is not Format.FOLDER:
            text = posixpath.join(text, f"{name}.{_EXTENSIONS.get(chosen, chosen.value)}")
        return text, chosen
    chosen = format or formats.guess(text, default)
    is_named = chosen not in (Format.BENTOMODEL, Format.CASMODEL) or text.endswith(f".{chosen.value}")
    if not is_named and not (path is not None and endpoint.is_device(path)):
        text += f".{chosen.value}"
    return text, chosen


def _write_archive(workspace: Workspace, row: VersionRow, sink: BinaryIO, format: Format, progress: Progress) -> None:
    entries = resolve.files(workspace.catalog, row)
    recipes = workspace.catalog.index.recipes({file.digest for file in entries})
    descriptor, signatures = carried.signed(workspace, row, (file.path for file in entries))
    progress.start("export", row.size)
    try:
        with open_writer(format, sink, mtime_s=max(0, row.created_at_ns // 1_000_000_000)) as archive:
            archive.add_file(DESCRIPTOR_NAME, len(descriptor), False, io.BytesIO(descriptor))
            for name, signature in signatures:
                archive.add_file(name, len(signature), False, io.BytesIO(signature))
            for directory in row.directory_paths():
                archive.add_directory(as_stored(directory))
            for file in entries:
                with contextlib.closing(_chunks(workspace, file, recipes)) as chunks:
                    content = _Content(chunks, progress)
                    with _named(file, row):
                        archive.add_file(as_stored(file.path), file.size, file.executable, content)
    except UnsafeArchive as error:  # a store accepts names that archives should not have, such as with a backslash
        raise InvalidSource(f"{row.tag} goes into no such archive: {error}; export it as folder or casmodel") from error
    finally:
        progress.finish()


@contextlib.contextmanager
def _named(file: FileEntry, row: VersionRow) -> Iterator[None]:
    """What is damaged is said to be of this file."""
    try:
        yield
    except IntegrityError as error:
        raise unreadable(f"{file.path} of {row.tag}", error) from error


def _chunks(workspace: Workspace, file: FileEntry, recipes: Mapping[Digest, Recipe]) -> Generator[bytes, None, None]:
    recipe = recipes.get(file.digest)
    if recipe is not None:
        yield from workspace.objects.read_blob(recipe)
    elif file.size:
        yield workspace.objects.serve_chunk(file.digest, file.digest)


class _Content:
    """A stream of the chunks of a blob, read once from front to back."""

    def __init__(self, chunks: Iterator[bytes], progress: Progress) -> None:
        self._chunks = chunks
        self._progress = progress
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At most `size` bytes, as many as are available at once; none at the end."""
        if not self._rest:
            chunk = next(self._chunks, b"")
            self._progress.advance(len(chunk))
            if len(chunk) <= size:
                return chunk
            self._rest = memoryview(chunk)
        data = bytes(self._rest[:size])
        self._rest = self._rest[size:]
        return data


def _write_folder(workspace: Workspace, row: VersionRow, target: Endpoint, progress: Progress) -> None:
    path = endpoint.local_path(target)
    if path is None:
        raise InvalidSource(f"a folder can be exported to this machine only, not to {endpoint.name_of(target)}")
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty; name a directory that is new, or remove what is in it")
    path = Path(os.path.abspath(path))
    unfinished.remove_leftovers(path.parent)
    with unfinished.directory_in(path.parent) as part:
        try:
            fill_folder(workspace, row, part, progress)
            _add_signatures(workspace, row, part)
            files.rename(part, path)
        except BaseException:
            files.remove_tree(part)
            raise


def _add_signatures(workspace: Workspace, row: VersionRow, directory: Path) -> None:
    paths = [file.path for file in resolve.files(workspace.catalog, row)]
    descriptor, signatures = carried.signed(workspace, row, paths)
    if signatures:
        mode = 0o666 & ~workspace.umask
        files.remove_file(directory / DESCRIPTOR_NAME)
        for name, data in [(DESCRIPTOR_NAME, descriptor), *signatures]:
            files.write_new_file(directory / name, data, mode)


@dataclass(frozen=True, slots=True)
class Filling:
    """How a directory is filled: what progress calls it, `clone`, which makes a file with the right bytes if it can and
    returns whether it did, and which files are meant, by paths, directories or patterns; all where nothing is said."""

    what: str = "export"
    clone: Callable[[FileEntry, Path], bool] = lambda _, __: False
    only: Sequence[str] | None = None


def fill_folder(
    workspace: Workspace, row: VersionRow, directory: Path, progress: Progress, how: Filling | None = None
) -> None:
    """Write the version's files and `model.yaml` into an empty directory, writable as this process's umask permits.

    Where not all files are meant, nothing else is written. Raises FileNotFoundError for a pattern that fits no file,
    TagNotFound, IntegrityError, OSError.
    """
    how = how or Filling()
    entries = picked(resolve.files(workspace.catalog, row), how.only, str(row.tag))
    recipes = workspace.catalog.index.recipes({file.digest for file in entries})
    if how.only is None:
        descriptor = model_yaml.render(workspace.catalog.versions.manifest(row, {}))
        files.write_new_file(directory / DESCRIPTOR_NAME, descriptor, 0o666 & ~workspace.umask)
        for each in row.directory_paths():
            files.make_directory(directory / each, parents=True)
    progress.start(how.what, sum(file.size for file in entries))
    try:
        for file in entries:
            path = directory / file.path
            files.make_directory(path.parent, parents=True)
            mode = (0o777 if file.executable else 0o666) & ~workspace.umask
            if how.clone(file, path):
                with files.open_regular(path) as target:
                    files.set_mode(target, mode)
                progress.advance(file.size)
                continue
            recipe = recipes.get(file.digest) or Recipe.of_one_chunk(file.digest, file.size)
            with files.create_file(path) as target:
                with _named(file, row):
                    workspace.objects.write_blob(recipe, target, progress.advance)
                files.set_mode(target, mode)
    finally:
        progress.finish()
