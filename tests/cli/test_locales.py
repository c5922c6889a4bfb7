"""Names of files are the bytes of the file system, UTF-8, whatever the locale says: one store, used in several."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import apsw
import pytest

import casstore
from tests.cli.conftest import Cli

NAMES = ["plain.bin", "café.bin", "Ördner/日本/語 🙂.txt", "Ördner/ÿ\u0080.bin", "ж.bin"]
EMPTY = "leer-ü"


@pytest.fixture(scope="session")
def latin(tmp_path_factory: pytest.TempPathFactory):
    """The environment of a locale in ISO-8859-1, made for the tests."""
    place = tmp_path_factory.mktemp("locales")
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", place / "en_US.ISO-8859-1"], capture_output=True, check=False
    )
    environment = {"LOCPATH": str(place), "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"}
    if not made or encoding(environment) != "iso8859-1":
        pytest.skip("no locale of ISO-8859-1 can be made here")
    return environment


def encoding(environment):
    code = "import sys; print(sys.getfilesystemencoding())"
    return subprocess.check_output([sys.executable, "-c", code], env={**os.environ, **environment}, text=True).strip()


@pytest.fixture
def environments(latin):
    bare = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert encoding(bare) == "ascii"
    return {"latin": latin, "ascii": bare, "utf8": {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}}


@pytest.fixture
def run(cli: Cli, environments):
    """run(locale, *arguments): `casstore` in that locale; what it writes, as bytes."""

    def call(locale, *arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "casstore.cli", *map(os.fsencode, arguments)], capture_output=True, check=False,
            env={**cli.environment, **environments[locale]}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert done.returncode == code, done
        return done.stdout

    return call


@pytest.fixture
def model(tmp_path: Path):
    root = tmp_path / "out"
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() * (10_000 if number % 2 else 1))
    (root / EMPTY).mkdir()
    return root


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in Path(root).rglob("*")
        if path.name != "model.yaml"
    }


def check(home, tag, expected):
    """The version as UTF-8 sees it: its names, its bytes, its directory."""
    with casstore.Store(home, auto_gc=False) as store:
        version = store.get(tag)
        assert [file.path for file in version.files] == sorted(NAMES)
        assert {file.path: version.open(file.path).read() for file in version.files}.items() <= expected.items()
        assert tree(version.path) == expected
        assert store.verify().is_sound
        return version.digest


@pytest.mark.crash
@pytest.mark.parametrize("locale", ["latin", "ascii"])
def test_a_version_is_the_same_whatever_the_locale(cli: Cli, run, model, tmp_path: Path, locale) -> None:
    expected = tree(model)
    run("utf8", "save", "m:utf8", model)
    run(locale, "save", "m:here", model)
    run(locale, "verify")
    run(locale, "gc", "--evict-all")
    for tag in ("m:here", "m:utf8"):
        directory = run(locale, "path", tag).removesuffix(b"\n")
        assert tree(os.fsdecode(directory)) == expected
        assert cli("show", tag, "--json").out == run(locale, "show", tag, "--json").decode()
    run(locale, "verify")
    (cli.home / "models/m/utf8" / NAMES[1]).unlink()
    run(locale, "path", "m:utf8")
    assert check(cli.home, "m:here", expected) == check(cli.home, "m:utf8", expected)
    shutil.rmtree(cli.home / "models")
    run(locale, "repair", "--rebuild-catalog")
    run(locale, "path", "m:here")
    check(cli.home, "m:here", expected)
    catalog = apsw.Connection(str(cli.home / "catalog.db"))
    assert {path for (path,) in catalog.execute("SELECT path FROM file")} == set(NAMES)
    catalog.close()


@pytest.mark.crash
@pytest.mark.parametrize(
    ("form", "locale"), [("tar.gz", "latin"), ("zip", "ascii"), ("casmodel", "latin"), ("folder", "ascii")]
)
def test_archives_hold_the_names_in_utf8_whatever_the_locale(
    cli: Cli, run, model, tmp_path: Path, locale, form
) -> None:
    run("utf8", "save", "m:1", model)
    for writes, reads in ((locale, "utf8"), ("utf8", locale)):
        archive = tmp_path / f"{writes}-to-{reads}.{form}"
        run(writes, "export", "m:1", archive, "--format", form)
        other = tmp_path / f"store-{writes}-{reads}"
        run(reads, "--home", other, "import", archive)
        check(other, "m:1", tree(model))


@pytest.mark.parametrize("locale", ["latin", "ascii"])
def test_a_home_and_a_single_file_may_have_any_name(cli: Cli, run, model, tmp_path: Path, locale) -> None:
    home = tmp_path / "Städte 日本"
    run(locale, "--home", home, "save", "m:1", model / NAMES[1])
    directory = run(locale, "--home", home, "path", "m:1").removesuffix(b"\n")
    assert home.is_dir()
    assert sorted(os.listdir(os.fsdecode(directory))) == ["café.bin", "model.yaml"]
    assert (home / "catalog.db").stat().st_size
    run("utf8", "--home", home, "verify")


@pytest.mark.parametrize("locale", ["latin", "ascii", "utf8"])
def test_what_is_not_utf8_is_refused_and_named(cli: Cli, run, tmp_path: Path, locale) -> None:
    root = os.fsencode(tmp_path / "bad")
    os.mkdir(root)
    with open(root + b"/caf\xe9", "wb"):
        pass
    run(locale, "save", "m:1", os.fsdecode(root), code=1)
    assert run("utf8", "list") == b""


@pytest.mark.parametrize("locale", ["latin", "ascii"])
def test_names_that_differ_by_case_alone_are_told_whatever_the_locale(run, tmp_path: Path, locale) -> None:
    for name in ("É.bin", "é.bin"):
        assert unicodedata.is_normalized("NFC", name)
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).touch()
    run(locale, "save", "m:1", tmp_path / "out", code=1)


@pytest.mark.parametrize("locale", ["latin", "ascii"])
def test_labels_are_text_in_utf8_too(cli: Cli, run, model, locale) -> None:
    run(locale, "save", "-l", "author=Jürgen", "-m", "ort=Köln", "m:1", model)
    with casstore.Store(cli.home) as store:
        assert store.get("m:1").labels == {"author": "Jürgen"}
        assert store.get("m:1").metadata == {"ort": "Köln"}


@pytest.mark.parametrize("locale", ["latin", "ascii"])
def test_python_opens_what_the_files_of_a_model_say(environments, home: Path, model, locale) -> None:
    with casstore.Store(home) as store:
        store.save("m:1", model)
    code = """
import os, sys
import casstore
with casstore.Store(sys.argv[1]) as store:
    model = store.get("m:1")
    for file in model.files:
        with open(os.path.join(model.path, file.path), "rb") as standing, model.open(file.path) as reader:
            assert standing.read() == reader.read()
    assert model.open("caf\\u00e9.bin").read()
    with store.create("m:2") as draft:
        for file in model.files:
            target = os.path.join(draft.path, file.path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            open(target, "wb").write(model.open(file.path).read())
        os.mkdir(os.path.join(draft.path, os.fsdecode("leer-\\u00fc".encode())))
    assert draft.model.digest == model.digest
    assert store.verify().is_sound
"""
    environment = {**os.environ, **environments[locale]}
    done = subprocess.run([sys.executable, "-c", code, str(home)], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    check(home, "m:2", tree(model))
