"""What a save of a directory leaves out, and that a draft is saved whole."""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.actions.sources.ignoring import DEFAULT_PATTERNS, Rules, translated
from casstore.actions.sources.source import find_source
from tests.kit import plant

TREE = {
    "config.json": b"{}",
    "train.log": b"log",
    ".git/HEAD": b"ref",
    ".git/objects/ab/cd": b"object",
    "sub/.git": b"gitdir: elsewhere",
    "sub/__pycache__/m.pyc": b"pyc",
    "sub/keep.log": b"keep",
    ".cache/huggingface/download/x.lock": b"",
    ".cache/other": b"other",
    "huggingface/x": b"x",
    ".gitignore": b"*.log",
}
DEFAULTS = {".git/", "sub/.git", "sub/__pycache__/", ".cache/huggingface/"}


@pytest.fixture
def source(tmp_path: Path):
    return plant(tmp_path / "out", TREE)


def saved(model):
    return {file.path for file in model.files}


def kept(*without):
    return {path for path in TREE if not path.startswith(tuple(DEFAULTS)) and path not in without}


def test_defaults(store: casstore.Store, source, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="casstore"):
        assert saved(store.save("m:1", source)) == kept()
    assert all(each in caplog.text for each in DEFAULTS)


def test_no_ignore(store: casstore.Store, source) -> None:
    (source / ".casstoreignore").write_text("*.log\n")
    assert saved(store.save("m:1", source, ignore=False)) == {*TREE, ".casstoreignore"}
    assert saved(store.save("m:2", source, ignore=False, exclude="*.log")) == {
        path for path in [*TREE, ".casstoreignore"] if not path.endswith(".log")
    }


def test_a_draft_is_saved_whole(store: casstore.Store) -> None:
    with store.create("m:1") as draft:
        plant(draft.path, {**TREE, ".casstoreignore": b"*"})
    assert saved(draft.model) == {*TREE, ".casstoreignore"}
    assert draft.left_out == ()


def test_patterns(store: casstore.Store, source) -> None:
    (source / ".casstoreignore").write_text("\ufeff# logs\n\n*.log\n!/sub/keep.log\nhugging*/\n!.git\n", "utf-8")
    expected = {path for path in TREE if "__pycache__" not in path and not path.startswith((".cache/hu", "hugg"))}
    expected |= {".casstoreignore"}
    expected -= {"train.log"}
    assert saved(store.save("m:1", source)) == expected
    assert saved(store.save("m:2", source, exclude=["keep.log", "/.git"])) == {
        path for path in expected if not path.startswith(".git/") and path != "sub/keep.log"
    }


@pytest.mark.parametrize("pattern", ["sub/", "/sub", "sub/**", "sub/*"])
def test_a_directory_that_is_left_out_is_gone_as_a_whole(store: casstore.Store, source, pattern) -> None:
    model = store.save("m:1", source, exclude=[pattern])
    assert not any(path.startswith("sub") for path in saved(model))
    assert not os.path.exists(f"{model.path}/sub")


def test_what_is_left_out_is_not_looked_at(store: casstore.Store, source) -> None:
    """Nor entered: what could not be saved may be there."""
    os.mkfifo(source / ".git/pipe")
    os.mkfifo(source / "other.pipe")
    os.symlink("nowhere", source / "broken.pipe")
    os.symlink("loop.pipe", source / "loop.pipe")
    (source / os.fsdecode(b"\xff.pipe")).write_bytes(b"")
    with pytest.raises(casstore.InvalidSource):
        store.save("m:1", source)
    assert saved(store.save("m:1", source, exclude="*.pipe")) == kept()


def test_a_moved_directory_keeps_what_was_left_out(store: casstore.Store, source) -> None:
    assert saved(store.save("m:1", source, move=True, exclude="*.log")) == kept("train.log", "sub/keep.log")
    left = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert left == set(TREE) - kept("train.log", "sub/keep.log")


def test_a_link_to_a_directory_is_one(store: casstore.Store, source, tmp_path: Path) -> None:
    plant(tmp_path / "data", {"x": b"x"})
    (source / "linked").symlink_to(tmp_path / "data")
    assert "linked/x" in saved(store.save("m:1", source))
    assert "linked/x" not in saved(store.save("m:2", source, exclude="linked/"))


def test_nothing_left_is_an_error(store: casstore.Store, source) -> None:
    with pytest.raises(casstore.InvalidSource, match=r"nothing is left of .*--no-ignore"):
        store.save("m:1", source, exclude="*")
    assert saved(store.save("m:1", source, exclude="*", allow_empty=True)) == set()


def test_a_bad_pattern_is_named(store: casstore.Store, source) -> None:
    with pytest.raises(casstore.InvalidSource, match="is not a pattern"):
        store.save("m:1", source, exclude="!")
    (source / ".casstoreignore").write_text("*.log\n!\n")
    with pytest.raises(casstore.InvalidSource, match="is not a pattern"):
        store.save("m:1", source)
    assert store.tags() == []


def test_a_casstoreignore_that_is_no_file(store: casstore.Store, source) -> None:
    os.mkfifo(source / ".casstoreignore")
    with pytest.raises(casstore.InvalidSource, match=r"\.casstoreignore is a named pipe"):
        store.save("m:1", source)
    os.unlink(source / ".casstoreignore")
    (source / ".casstoreignore").mkdir()
    assert saved(store.save("m:1", source)) == kept()
    os.rmdir(source / ".casstoreignore")
    (source / ".casstoreignore").write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(casstore.InvalidSource, match=r"\.casstoreignore has more than"):
        store.save("m:2", source)


def test_a_single_file_is_saved_whatever_its_name(store: casstore.Store, source) -> None:
    assert saved(store.save("m:1", source / "sub/.git", exclude="*")) == {".git"}


@pytest.mark.parametrize(
    ("patterns", "files", "expected"),
    [
        (["*", "!*/", "!*.bin"], ["top.bin", "shards/1.bin", "run.log"], {"top.bin", "shards/1.bin"}),
        (["ckpt/**", "!ckpt/best.bin"], ["ckpt/best.bin", "ckpt/a"], {"ckpt/best.bin"}),
        (["ckpt/", "!ckpt/best.bin"], ["ckpt/best.bin", "a"], {"a"}),
        (["logs/**", "!logs/**/", "!*.txt"], ["logs/a/b.txt", "logs/a/b"], {"logs/a/b.txt"}),
        (["secrets/", "!conf"], ["conf/secrets/key", "conf/a"], {"conf/a"}),
        (["build", "!/conf/"], ["conf/build/x", "conf/a"], {"conf/a"}),
        (["[!a]x", "\\!y", "a\\ "], ["bx", "ax", "!y", "a ", "y"], {"ax", "y"}),
    ],
)
def test_a_pattern_speaks_of_what_it_matches_alone(
    store: casstore.Store, tmp_path: Path, patterns, files, expected
) -> None:
    source = plant(tmp_path / "out", dict.fromkeys(files, b"x"))
    assert saved(store.save("m:1", source, exclude=patterns)) == expected


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_as_git_does(tmp_path: Path) -> None:
    """Random patterns, and random files."""
    rng = random.Random(5)
    names = ["a", "b", "conf", "x.log", "y.bin", "a.b"]
    patterns = [
        "*",
        "!*/",
        "!*.bin",
        "a",
        "!a",
        "a/",
        "!a/",
        "/a",
        "!/a",
        "a/*",
        "a/**",
        "!a/b",
        "**/a",
        "!**/a",
        "**/a/**",
        "a/**/b",
        "*.log",
        "!*.log",
        "conf",
        "!conf",
        "?",
        "[ab]",
        "[!a]",
        "x.*",
        "a*",
        "*a",
        "!/conf/",
        "b/a/",
        "**",
        "!**/",
        "a/**/",
        "/*",
        "!/b",
        "[a-c]*",
        "\\a",
        "conf/**",
        "!conf/*/",
    ]
    for number in range(60):
        root = tmp_path / str(number)
        subprocess.run(["git", "init", "-q", root], check=True)
        for _ in range(rng.randint(3, 10)):
            path = root.joinpath(*(rng.choice(names) for _ in range(rng.randint(1, 3))))
            if not any(above.is_file() for above in path.parents) and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x")
        chosen = [rng.choice(patterns) for _ in range(rng.randint(1, 5))]
        (tmp_path / "patterns").write_text("\n".join(chosen) + "\n")
        command: list[str | Path] = ["git", "-C", root, "ls-files", "-o", "--exclude-from", tmp_path / "patterns"]
        git = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        shutil.rmtree(root / ".git")
        assert sorted(file.path for file in find_source(root, Rules.of(chosen, False)).files) == sorted(git), chosen


class Entry:
    """An entry of a directory, of that kind."""

    def __init__(self, name: str, is_directory: bool) -> None:
        self.name = name
        self._is_directory = is_directory

    def is_dir(self) -> bool:
        return self._is_directory


NAMES = st.sampled_from([".git", ".gitx", "__pycache__", ".cache", "huggingface", "x.cache", "a"])


@given(st.lists(NAMES, max_size=4), NAMES, st.booleans())
def test_the_names_say_what_the_patterns_say(parents, name, is_directory) -> None:
    plain, by_patterns = Rules(), Rules()
    by_patterns._patterns = list(map(translated, DEFAULT_PATTERNS))
    entry: Any = Entry(name, is_directory)
    prefix = ""
    for parent in parents:  # what stands in a directory that is left out is not asked for
        above: Any = Entry(parent, True)
        if plain.leaves_out(above, prefix):
            return
        prefix += f"{parent}/"
    assert plain.leaves_out(entry, prefix) == by_patterns.leaves_out(entry, prefix)
    assert plain.left_out == by_patterns.left_out
