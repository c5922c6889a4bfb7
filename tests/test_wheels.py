"""What is built of a checkout: with a compiler and without one, a wheel and what a wheel can be built from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from casstore.storage.coding.build_kernels import platform_tag
from tests.pages import ROOT

pytestmark = pytest.mark.crash

LIBRARY = "casstore/storage/coding/_kernels.lib.so"
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler here")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy, since building puts the library among the sources."""
    made = tmp_path / "checkout"
    shutil.copytree(ROOT / "casstore", made / "casstore", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, made)
    return made


def built(checkout: Path, target: str, compiler: str) -> Path:
    place = checkout.parent / f"{target} by {Path(compiler).name}"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(place)],
        cwd=checkout, env={**os.environ, "CC": compiler}, check=True, capture_output=True,
    )  # fmt: skip
    (found,) = place.iterdir()
    return found


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@needs_compiler
def test_a_wheel_carries_the_kernels_for_its_platform_and_every_python(checkout: Path) -> None:
    wheel = built(checkout, "wheel", "cc")
    assert wheel.name.endswith(f"-py3-none-{platform_tag()}.whl")
    names = names_in(wheel)
    assert LIBRARY in names
    assert not {name for name in names if name.endswith(("kernels.c", "build_kernels.py"))}
    # One that was built before is not carried on where the compiler now fails.
    other = built(checkout, "wheel", "/bin/false")
    assert other.name.endswith("-py3-none-any.whl")
    assert names_in(other) == names - {LIBRARY}


@needs_compiler
def test_a_source_archive_has_the_source_and_not_what_was_built(checkout: Path) -> None:
    built(checkout, "wheel", "cc")
    assert (checkout / LIBRARY).exists()
    with tarfile.open(built(checkout, "sdist", "cc")) as archive:
        archive.extractall(checkout.parent, filter="data")
        names = archive.getnames()
    assert not [name for name in names if name.endswith(".so")]
    (unpacked,) = checkout.parent.glob("casstore-*")
    assert LIBRARY in names_in(built(unpacked, "wheel", "cc"))
