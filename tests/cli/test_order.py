"""TAG and PATH the other way round: the command as it should be is in the error, in the user's words."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["save", "out/", "bert"], "casstore save bert out/"),
        (["save", "out", "bert:v3"], "casstore save bert:v3 out"),
        (["save", "./out", "bert:v3"], "casstore save bert:v3 ./out"),
        (["save", "a b/", "bert"], "casstore save bert 'a b/'"),
        (["save", "."], "casstore save work ."),
        (["save", "out/"], "casstore save out out/"),
        (["save", "a b"], "casstore save NAME 'a b'"),
        (["save", "gone/model.bin", "bert"], "casstore save bert gone/model.bin"),
        (["export", "copy.tar", "bert:v1"], "casstore export bert:v1 copy.tar"),
        (["export", "./copy.tar", "bert"], "casstore export bert ./copy.tar"),
    ],
)
def test_tag_comes_first(untouched: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, command) -> None:
    work = tmp_path / "work"
    for name in ("out", "a b"):
        (work / name).mkdir(parents=True)
    monkeypatch.chdir(work)
    done = untouched(*arguments, code=2)
    assert done.err.splitlines()[0] == f"error: TAG comes first: {command}"
    assert len(untouched("list").out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["save", "bert"], 2, "Missing argument 'PATH': casstore save bert PATH"),
        (["save", "bert:v9", "gone"], 1, "does not exist"),
        (["save", "../x", "out"], 2, "cannot be a"),
        (["export", "copy.tar", "out"], 12, "there is no copy.tar"),
    ],
)
def test_other_mistakes_are_told_as_they_are(
    untouched: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, code, text
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    assert text in untouched(*arguments, code=code).err


def test_a_directory_may_have_the_name_of_a_tag(cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.parent)
    files.rename("bert")
    (files.parent / "model").mkdir()
    assert cli("save", "-q", "model:v1", "bert").out == "model:v1\n"
    assert cli("save", "-q", "model", "bert").out.startswith("model:")
