"""What is recorded of a file's tensors, against the header of the file: a record may be a stranger's, or an old one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import casstore
from casstore.storage import chunking
from casstore.storage.tensors import elements
from casstore.storage.tensors.elements import ReadAt, Segment
from casstore.storage.tensors.headers import check_header
from casstore.storage.tensors.zips import find_zip
from tests.kit import safetensors, weights
from tests.torch_files import View, state_dict

Found = tuple[str, list[Segment]]
A, B = (np.asarray(weights("F32", seed, 0, 1000)).view("<f4") for seed in (1, 2))
SWAPPED = {"a": "b", "b": "a"}


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=A, b=B)
    return file.getvalue()


def of_torch() -> bytes:
    views = {"x": View("a", "F32", (1000,), (1,)), "y": View("b", "F32", (1000,), (1,))}
    return state_dict(views, {"a": A.tobytes(), "b": B.tobytes()})


FILES = {
    "w.safetensors": safetensors({"a": ("F32", A), "b": ("F32", B)}),
    "w.npz": npz(),
    "w.distcp": npz() + npz(),
    "w.pt": of_torch(),
}


def swapped(kind: str, each: Segment) -> Found:
    if each.name is None:
        return kind, [each]
    parent, slash, last = each.name.rpartition("/")
    return kind, [replace(each, name=parent + slash + SWAPPED[last])]


def changed(**changes: object) -> Callable[[str, Segment], Found]:
    return lambda kind, each: (kind, [each if each.name is None else replace(each, **changes)])  # type: ignore[arg-type]


def halved(kind: str, each: Segment) -> Found:
    half = each.length // 2
    first, rest = replace(each, length=half), replace(each, offset=each.offset + half, length=each.length - half)
    return kind, [each] if each.name is None else [first, replace(rest, name=f"{each.name}2")]


def of_other_kind(kind: str, each: Segment) -> Found:
    """As whose arrays they would not be looked at for Fortran's order."""
    return "safetensors" if kind != "safetensors" else "npz", [each]


LIES = [swapped, changed(dtype="I32"), changed(shape=(10, 100)), halved, of_other_kind]


@contextmanager
def recorded(lie: Callable[[str, Segment], Found]) -> Iterator[None]:
    """What is saved meanwhile gets a false record."""
    true = elements.find_segments

    def find(read: ReadAt, size: int) -> Found | None:
        found = true(read, size)
        if found is None:
            return None
        parts = [lie(found[0], each) for each in found[1]]
        return parts[0][0], [each for _, several in parts for each in several]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "find_segments", find)
        yield


@pytest.fixture
def stranger(tmp_path: Path) -> casstore.Store:
    return casstore.Store(tmp_path / "stranger")


def kept(store: casstore.Store, tmp_path: Path, files: dict[str, bytes], tag: str = "m:1") -> casstore.Model:
    directory = tmp_path / "files"
    directory.mkdir()
    for path, content in files.items():
        (directory / path).write_bytes(content)
    return store.save(tag, directory)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("lie", LIES)
def test_a_false_record_is_not_imported_nor_read(
    store: casstore.Store, stranger: casstore.Store, tmp_path: Path, path: str, lie: Callable[[str, Segment], Found]
) -> None:
    with recorded(lie):
        made = kept(stranger, tmp_path, {path: FILES[path]})
    archive = Path(stranger.export(["m:1"], tmp_path / "m.casmodel"))
    with pytest.raises(casstore.IntegrityError, match=r"the record of a file in .* does not fit its header"):
        store.import_archive(archive)
    assert list(store.list()) == []
    message = f"the record of {path} of m:1 does not fit its header"
    with pytest.raises(casstore.IntegrityError, match=message):
        made.state_dict(framework="numpy", file="*")
    with pytest.raises(casstore.IntegrityError, match=message):
        made.tensor(made.tensors()[0].name)
    assert made.open(path).read() == FILES[path]


def test_a_false_record_is_not_pulled_nor_read_from_a_remote(
    store: casstore.Store, stranger: casstore.Store, tmp_path: Path
) -> None:
    with recorded(swapped):
        kept(stranger, tmp_path, {"w.npz": FILES["w.npz"]})
    with stranger.add_remote("r", str(tmp_path / "bucket")) as there:
        there.push("m:1")
    with store.add_remote("r", str(tmp_path / "bucket")) as there:
        with pytest.raises(casstore.IntegrityError, match="does not fit its header"):
            there.get("m:1").tensor("a")
        with pytest.raises(casstore.IntegrityError, match="does not fit its header"):
            there.pull("m:1")
    assert list(store.list()) == []


def test_names_in_a_format_that_is_not_known_are_none(
    store: casstore.Store, stranger: casstore.Store, tmp_path: Path
) -> None:
    with recorded(lambda kind, each: ("later", swapped(kind, each)[1])):
        kept(stranger, tmp_path, {"w.npz": FILES["w.npz"]})
    store.import_archive(Path(stranger.export(["m:1"], tmp_path / "m.casmodel")))
    model = store.get("m:1")
    assert list(model.tensors()) == []


@pytest.mark.parametrize("path", FILES)
def test_a_record_of_an_older_release_is_read(
    store: casstore.Store, stranger: casstore.Store, tmp_path: Path, path: str
) -> None:
    """Which knew the last of several archives alone, or no dtype."""
    content = FILES[path]
    older = changed(dtype=None) if path == "w.pt" else changed()
    with pytest.MonkeyPatch.context() as patch, recorded(older):
        patch.setattr(elements, "find_zips", find_zip)
        kept(stranger, tmp_path, {path: content})
    store.import_archive(Path(stranger.export(["m:1"], tmp_path / "m.casmodel")))
    model = store.get("m:1")
    names = ("x", "y") if path == "w.pt" else ("a", "b")
    loaded = model.state_dict(framework="numpy")
    assert [loaded[name].tobytes() for name in names] == [A.tobytes(), B.tobytes()]


def test_a_file_without_a_header_has_no_tensors_to_record() -> None:
    recipe = chunking.scan_bytes(FILES["w.npz"])
    assert recipe.plan == "npz/1"
    with pytest.raises(casstore.IntegrityError, match=r"the record of w does not fit its header: .* 'a' at byte"):
        check_header(recipe, lambda _, length: bytes(length), "w", "read it")
