"""What tests of archives share: unpacking bytes into a place that is watched, and streams that cannot seek."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore.archive.unpacking import Unpacked, unpack

Tree = dict[str, "bytes | None"]
Read = Callable[..., tuple[Unpacked, Tree]]


def _look(root: Path) -> Tree:
    """Every file with its bytes, an executable's name ending in !, and every empty directory with None."""
    found: Tree = {}
    for directory, folders, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            status = path.lstat()
            assert stat.S_ISREG(status.st_mode)
            assert status.st_nlink == 1
            assert stat.S_IMODE(status.st_mode) in (0o600, 0o700)
            mark = "!" if status.st_mode & 0o100 else ""
            found[str(path.relative_to(root)) + mark] = path.read_bytes()
        assert not any(Path(directory, name).is_symlink() for name in folders)
        if not folders and not names and directory != str(root):
            found[str(Path(directory).relative_to(root))] = None
    return found


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """read(archive, **options): unpack bytes or a stream; what came out. Nothing beside the directory may appear."""
    root = tmp_path_factory.mktemp("archives")
    numbers = itertools.count()

    def unpack_bytes(archive: Any, **options: Any) -> tuple[Unpacked, Tree]:
        place = root / str(next(numbers)) / "around" / "inside"
        place.mkdir(parents=True)
        (place.parent / "beside").write_bytes(b"untouched")
        try:
            unpacked = unpack(io.BytesIO(archive) if isinstance(archive, bytes) else archive, place, **options)
            tree = _look(place)
            files = {path: content for path, content in tree.items() if content is not None}
            assert (unpacked.file_count, unpacked.size) == (len(files), sum(map(len, files.values())))
            return unpacked, tree
        finally:
            assert {path.name for path in place.parent.iterdir()} == {"inside", "beside"}
            assert (place.parent / "beside").read_bytes() == b"untouched"
            assert [path.name for path in place.parent.parent.iterdir()] == ["around"]
            _look(place)
            shutil.rmtree(place.parent.parent)

    return unpack_bytes
