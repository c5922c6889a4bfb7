"""Archives as the programs of the system and the standard library make and read them."""

from __future__ import annotations

import io
import lzma
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore.archive.formats import Format, guess
from casstore.archive.writing import open_writer
from tests.kit import Pipe, plant

ARCHIVES = [form for form in Format if form not in (Format.FOLDER, Format.CASMODEL)]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} here")


FILES: dict[str, bytes | None] = {
    "model.yaml": b"name: bert\n",
    "weights": bytes(range(256)) * 3000,
    "d/run!": b"#!/bin/sh\n",
    "d/" + "n" * 150 + "/\u00e9": b"long",
    "empty": b"",
    "e": None,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = plant(tmp_path / "model", FILES)
    (root / "link").symlink_to("weights")
    (root / "d/up").symlink_to("../e")
    os.link(root / "weights", root / "same")
    return root


EXPECTED = {
    **{name: content for name, content in FILES.items() if name != "model.yaml"},
    "link": FILES["weights"],
    "same": FILES["weights"],
    "d/up": None,
}


def run(command: str, directory: Path, **options: Any) -> bytes:
    done = subprocess.run(command, shell=True, cwd=directory, capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@needs("tar")
@pytest.mark.parametrize("form", ["gnu", "oldgnu", "posix", "ustar", "v7"])
@pytest.mark.parametrize("what", [".", "*"])
def test_archives_of_gnu_tar(model: Path, read: Callable[..., Any], form: str, what: str) -> None:
    name = "n" * (60 if form in ("ustar", "v7") else 150)
    (model / "d" / ("n" * 150)).rename(model / "d" / name)
    archive = run(f"tar --format={form} -cf - {what}", model)
    unpacked, tree = read(Pipe(archive))
    assert unpacked.descriptor == FILES["model.yaml"]
    assert tree == {path.replace("n" * 150, name): content for path, content in EXPECTED.items()}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("xz -c", marks=needs("tar", "xz")),
        pytest.param("xz -c -T2 --block-size=100000 --check=sha256", marks=needs("tar", "xz")),
        pytest.param("xz -c -9e", marks=needs("tar", "xz")),
        pytest.param("gzip -c", marks=needs("tar", "gzip")),
        pytest.param("bzip2 -c", marks=needs("tar", "bzip2")),
        pytest.param("zstd -c", marks=needs("tar", "zstd")),
        pytest.param("zstd -c --long=27 -T2", marks=needs("tar", "zstd")),
        pytest.param("zstd -c -19 --no-check", marks=needs("tar", "zstd")),
    ],
)
def test_compressed_archives(model: Path, read: Callable[..., Any], command: str) -> None:
    archive = run(f"tar -cf - . | {command}", model)
    assert read(Pipe(archive))[1] == EXPECTED


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("zip -qr - . > ../out.zip", marks=needs("zip")),
        pytest.param("zip -qry ../out.zip .", marks=needs("zip")),
        pytest.param("zip -qr0 ../out.zip .", marks=needs("zip")),
        pytest.param(
            "cat weights | zip -q ../out.zip - && zip -qd ../out.zip - && zip -qr ../out.zip *", marks=needs("zip")
        ),
        pytest.param("zip -qr -fz ../out.zip .", marks=needs("zip")),
    ],
)
def test_archives_of_zip(model: Path, read: Callable[..., Any], command: str) -> None:
    run(command, model)
    unpacked, tree = read((model.parent / "out.zip").read_bytes())
    assert unpacked.descriptor == FILES["model.yaml"]
    assert tree == EXPECTED


@pytest.mark.parametrize("form", ["tar", "gztar", "bztar", "xztar", "zip"])
def test_archives_of_shutil(model: Path, read: Callable[..., Any], form: str) -> None:
    """As BentoML makes them."""
    path = shutil.make_archive(str(model.parent / "out"), form, model)
    assert read(Path(path).read_bytes(), format=guess(path))[1] == EXPECTED


def write(form: Format, sink: Any) -> None:
    with open_writer(form, sink, mtime_s=1_700_000_000) as writer:
        for name, content in FILES.items():
            if content is None:
                writer.add_directory(name)
            else:
                writer.add_file(name.removesuffix("!"), len(content), name.endswith("!"), io.BytesIO(content))


@needs("tar", "xz", "gzip", "bzip2", "zstd", "unzip")
@pytest.mark.parametrize("form", ARCHIVES)
def test_programs_read_what_is_written(tmp_path: Path, form: Format) -> None:
    with (tmp_path / "out").open("wb") as sink:
        write(form, sink)
    (tmp_path / "place").mkdir()
    option = {Format.GZ: "-z", Format.BZ2: "-j", Format.ZST: "--zstd", Format.TAR: ""}.get(form, "-J")
    run("unzip -q ../out" if form is Format.ZIP else f"tar {option} -xf ../out", tmp_path / "place")
    for name, content in FILES.items():
        path = tmp_path / "place" / name.removesuffix("!")
        if content is None:
            assert path.is_dir()
            continue
        assert path.read_bytes() == content
        assert bool(path.stat().st_mode & 0o100) == name.endswith("!")
        if form is not Format.ZIP:  # unzip takes its times for local ones
            assert path.stat().st_mtime == 1_700_000_000


@pytest.mark.parametrize("form", [Format.TAR, Format.GZ, Format.BZ2, Format.XZ, Format.BENTOMODEL])
def test_tarfile_reads_what_is_written(form: Format) -> None:
    buffer = io.BytesIO()
    write(form, buffer)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        members = {member.name: member for member in archive}
        assert list(members) == [name.removesuffix("!") for name in FILES]
        for name, content in FILES.items():
            member = members[name.removesuffix("!")]
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            assert member.mtime == 1_700_000_000
            assert member.mode == (0o755 if content is None or name.endswith("!") else 0o644)
            extracted = archive.extractfile(member)
            assert (extracted and extracted.read()) == content


def test_zipfile_reads_what_is_written() -> None:
    buffer = io.BytesIO()
    write(Format.ZIP, buffer)
    with zipfile.ZipFile(buffer) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            name.removesuffix("!") + "/" * (content is None) for name, content in FILES.items()
        ]
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        for name, content in FILES.items():
            if content is not None:
                assert archive.read(name.removesuffix("!")) == content


def test_bentoml_reads_what_is_written(tmp_path: Path) -> None:
    """BentoML opens a .bentomodel by this file system of fsspec's (bentoml 1.4, _internal/exportable.py)."""
    implementation = pytest.importorskip("fsspec.implementations.tar")
    path = tmp_path / "bert.bentomodel"
    with path.open("wb") as sink:
        write(Format.BENTOMODEL, sink)
    system = implementation.TarFileSystem(str(path), compression="xz")
    assert system.cat("model.yaml") == FILES["model.yaml"]
    assert system.cat("weights") == FILES["weights"]
    assert {member.name for member in system.tar.getmembers()} == {name.removesuffix("!") for name in FILES}
    system.tar.close()
    assert lzma.decompress(path.read_bytes()).endswith(bytes(1024))
