"""Members that cannot stand where an archive says, whatever the format."""

from __future__ import annotations

import io
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore.archive.unpacking import unpack
from casstore.errors import UnsafeArchive

Packer = Callable[..., bytes]


def pack_tar(*names: str) -> bytes:
    """Names ending in / are directories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info)
    return buffer.getvalue()


def pack_zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.external_attr = ((stat.S_IFDIR | 0o755) if name.endswith("/") else (stat.S_IFREG | 0o644)) << 16
            archive.writestr(info, b"")
    return buffer.getvalue()


both = pytest.mark.parametrize("pack", [pack_tar, pack_zip])


@both
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "'/etc/passwd' in the archive is an absolute path; pack"),
        ("//etc/passwd", "is an absolute path"),
        ("../up", "'../up' in the archive leads out of the archive with '..'"),
        ("a/../../up", "leads out of the archive"),
        ("a/..", "leads out of the archive"),
        ("..", "leads out of the archive"),
        ("a/../b", "leads out of the archive"),
        ("C:/windows", "'C:/windows' in the archive begins with a drive letter"),
        ("./c:x", "begins with a drive letter"),
        ("a\\b", "has a backslash in its name"),
        ("..\\up", "has a backslash in its name"),
        ("\u00e4\0b", "has a NUL in its name"),
        ("n" * 256, "'n{120}'... in the archive has a name of more than 255 bytes"),
        ("\u00e4" * 128, "has a name of more than 255 bytes"),
        ("d/" * 200 + "f", "is nested more than 200 directories deep"),
        (("d" * 200 + "/") * 21 + "f", "has a path of more than 4096 bytes"),
        (".", "is a file and names the archive's root"),
    ],
)
def test_names_that_lead_elsewhere(read: Callable[..., Any], pack: Packer, name: str, message: str) -> None:
    with pytest.raises(UnsafeArchive, match=message):
        read(pack("before", name))


def test_an_empty_name(read: Callable[..., Any]) -> None:
    with pytest.raises(UnsafeArchive, match="a member of the archive has an empty name"):
        read(pack_tar(""))
    with pytest.raises(UnsafeArchive, match="a member of the archive has an empty name"):
        read(pack_zip(""))


@both
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "'a' is in the archive twice"),
        (["a/b", "./a//b"], "'a/b' is in the archive twice"),
        (["model.yaml", "./model.yaml"], "'model.yaml' twice"),
        (["a", "a/b"], "'a' in the archive is a file and a directory at once"),
        (["a/b", "a"], "'a' in the archive is both a directory and a file"),
        (["a", "a/"], "'a' in the archive is a file and a directory at once"),
        (["a/", "a"], "'a' in the archive is both a directory and a file"),
        (["model.yaml/a"], "'model.yaml' in the archive is the descriptor's name and a directory"),
        (["model.yaml/"], "'model.yaml' in the archive is the descriptor's name and a directory"),
        (["a", "A"], "'A' and another member of the archive differ only by case or Unicode form"),
        (["A", "a"], "'a' and another member of the archive differ only"),
        (["d/x", "D/y"], "'D' and another member"),
        (["D/", "d/y"], "'d' and another member"),
        (["d", "D/y"], "'D' and another member"),
        (["Model.yaml"], "'Model.yaml' and another member"),
        (["MODEL.yaml/x"], "'MODEL.yaml' and another member"),
        (["\u00e9", "e\u0301"], "differ only by case or Unicode form"),
        (["\u00df", "ss"], "differ only by case or Unicode form"),
    ],
)
def test_names_that_contradict_each_other(
    read: Callable[..., Any], pack: Packer, names: list[str], message: str
) -> None:
    if pack is pack_tar and any(name == "./a//b" for name in names):
        names = [name.replace("//", "/./") for name in names]
    with pytest.raises(UnsafeArchive, match=message):
        read(pack(*names))


@both
def test_names_that_are_as_they_are_usually(read: Callable[..., Any], pack: Packer) -> None:
    names = [
        "./",
        "./a/",
        "./a/",
        "a/b",
        "./a/c",
        "a/./d/",
        "e/f/g",
        "e/",
        "e/f/h",
        "ab:c",
        "...",
        "..a/b..",
        "n" * 255,
    ]
    _, tree = read(pack(*names))
    assert sorted(tree) == sorted(["a/b", "a/c", "a/d", "e/f/g", "e/f/h", "ab:c", "...", "..a/b..", "n" * 255])
    deepest = "d/" * 199 + "f"
    assert list(read(pack(deepest))[1]) == [deepest]


@both
def test_names_that_the_file_system_cannot_hold_here(read: Callable[..., Any], pack: Packer) -> None:
    """With the directory before them they are longer than a path may be."""
    name = "/".join(["d" * 200] * 20) + "/" + "f" * 70
    assert len(name) < 4096
    with pytest.raises(UnsafeArchive, match="cannot be created here: File name too long"):
        read(pack(name))


def test_what_stands_in_the_directory_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    (tmp_path / "there/a").symlink_to(outside)
    with pytest.raises(UnsafeArchive, match="'a' in the archive stands where another file does"):
        unpack(io.BytesIO(pack_tar("a")), tmp_path / "there")
    assert outside.read_bytes() == b"untouched"


def test_other_errors_are_the_systems_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unpack(io.BytesIO(pack_tar("a")), tmp_path / "nowhere")
