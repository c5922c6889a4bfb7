"""docs/architecture.md and docs/contributing.md: what they name is there, and their steps lead where they say."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pages import ROOT, blocks
from tests.test_layers import INNER, PACKAGE, ROOMS

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
PAGES = {"architecture": ARCHITECTURE, "contributing": CONTRIBUTING}


@pytest.mark.parametrize("name", PAGES)
def test_paths_and_links_lead_somewhere(name: str) -> None:
    # What the page has the reader write is not there yet.
    new = {block.title for block in blocks(PAGES[name]) if block.title}
    paths = set(re.findall(r"\b(?:casstore|tests|docs|benchmarks)/[\w./]*\w/?", PAGES[name])) - new
    assert len(paths) > 10
    missing = [path for path in paths if not ((ROOT / path).exists() or (ROOT / f"{path}.py").exists())]
    assert missing == []
    for link, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", PAGES[name]):
        page = ROOT / "docs" / link
        assert page.is_file(), link
        headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, anchor


def test_the_map_has_every_room_in_its_order() -> None:
    rows = re.findall(r"^\| `([a-z]+)/` \|", ARCHITECTURE, re.MULTILINE)
    folders = [name for name in INNER["actions"] if (PACKAGE / "actions" / name).is_dir()]
    assert rows == folders
    for room in ROOMS:
        there = (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()
        assert not there or f"`casstore/{room}" in ARCHITECTURE, room


def test_commits_are_looked_at_as_tox_does() -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    looked = [tox[f"testenv:{name}"]["commands"].strip().splitlines() for name in ("lint", "types")]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["name"] for hook in hooks] == ["ruff check", "ruff format", "mypy"]
    assert [command.split(" --")[0] for commands in looked for command in commands] == [hook["name"] for hook in hooks]
    assert "tox -e quick" in CONTRIBUTING
    assert "testenv:quick" in tox


@pytest.mark.crash
def test_a_verb_can_be_added(tmp_path: Path) -> None:
    """In a copy of the checkout: the test first, which is red, then the verb and the three places that know it."""
    for name in ("casstore", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    test, verb = (block for block in blocks(CONTRIBUTING, "python") if block.title)
    assert test.title is not None
    assert verb.title is not None
    name = Path(verb.title).stem
    (tmp_path / test.title).write_text(test.text)
    assert _pytest(tmp_path, test.title) == 1
    (tmp_path / verb.title).write_text(verb.text)
    main = tmp_path / "casstore/cli/main.py"
    text = main.read_text(encoding="utf-8")
    main.write_text(text.replace("_VERBS = (\n", f'_VERBS = (\n    "{name}",\n'), encoding="utf-8")
    of_documents = ["tests/test_docs.py", "-k", f"documented and {name} and commands"]
    assert _pytest(tmp_path, *of_documents) == 1
    with open(tmp_path / "README.md", "a", encoding="utf-8") as readme:
        readme.write(f"\n`casstore {name}` counts versions.\n")
    assert _pytest(tmp_path, *of_documents) == 0
    assert _pytest(tmp_path, test.title, "tests/test_layers.py") == 0
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "-q", test.title, verb.title], cwd=tmp_path, check=True)
    subprocess.run([*ruff, "format", "-q", "--check", test.title, verb.title], cwd=tmp_path, check=True)


def _pytest(checkout: Path, *arguments: str) -> int:
    """Run tests in that checkout, of it and not of this one. Returns pytest's exit code."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *arguments]
    command.append(f"--basetemp={checkout / 'scratch'}")
    return subprocess.run(
        command, cwd=checkout, env={**environment, "PYTHONPATH": str(checkout)}, check=False, capture_output=True
    ).returncode
