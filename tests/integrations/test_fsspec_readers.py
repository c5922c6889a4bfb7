"""Libraries that open what they read by fsspec, over `casstore://`."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from tests.kit import plant

fsspec = pytest.importorskip("fsspec", reason="needs casstore[fsspec]")

PAGE = Path(__file__).parents[2].joinpath("docs/how-to/fsspec.md").read_text(encoding="utf-8")


@pytest.fixture
def table(store: casstore.Store, tmp_path: Path) -> casstore.Model:
    return store.save("run:v1", plant(tmp_path / "out", {"t.csv": b"a,b\n1,2\n", "sub/u.csv": b"a,b\n3,4\n"}))


def test_pandas(store: casstore.Store, table: casstore.Model) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    found = pandas.read_csv(f"{table.url}/t.csv", storage_options={"home": store.home})
    assert found.to_dict("list") == {"a": [1], "b": [2]}
    with pytest.raises(OSError, match="casstore:// is read-only"):
        found.to_csv(f"{table.url}/new.csv")


def test_pyarrow(table: casstore.Model) -> None:
    dataset = pytest.importorskip("pyarrow.dataset", reason="needs pyarrow")
    system = fsspec.filesystem("casstore")
    # The descriptor is not listed, and so no table of a version's directory.
    assert dataset.dataset("run:v1", filesystem=system, format="csv").to_table().to_pydict() == {
        "a": [3, 1],
        "b": [4, 2],
    }
    arrow = pytest.importorskip("pyarrow.fs")
    opened, path = arrow.FileSystem.from_uri(f"fsspec+{table.url}/t.csv")
    with opened.open_input_file(path) as file:
        assert file.read() == b"a,b\n1,2\n"
    assert opened.get_file_info("run:v1/nothing").type == arrow.FileType.NotFound


def test_upath(table: casstore.Model) -> None:
    upath = pytest.importorskip("upath", reason="needs universal_pathlib")
    root = upath.UPath(table.url)
    assert type(root).__module__ == "casstore.integrations.upath"
    assert [(path.name, path.is_dir()) for path in root.iterdir()] == [("sub", True), ("t.csv", False)]
    assert (root / "sub" / "u.csv").read_text() == "a,b\n3,4\n"
    assert (root / "sub").parent == root
    assert [str(path) for path in root.rglob("*.csv")] == ["casstore://run:v1/sub/u.csv", "casstore://run:v1/t.csv"]
    assert [path.name for path in upath.UPath("casstore://").iterdir()] == ["run:v1"]
    with pytest.raises(OSError, match="casstore:// is read-only"):
        (root / "new").write_text("x")


def test_the_page_runs(tmp_path: Path) -> None:
    """In a process of its own, which is the only one that imports torch."""
    for name in ("pandas", "pyarrow", "torch", "upath"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    ((program, text),) = re.findall(r'^```python title="(readers.py)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / program).write_text(text)
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == ["2", "run:v1/log.parquet", "2.0", "['log.parquet', 'model.pt']"]
