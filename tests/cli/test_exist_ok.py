"""casstore save --exist-ok."""

from pathlib import Path

from tests.cli.conftest import Cli


def test_the_same_again(saved: Cli, files: Path) -> None:
    arguments = ("save", "bert:v2", files, "-l", "stage=prod", "-m", "accuracy=0.93")
    assert "--exist-ok" in saved(*arguments, code=13).err
    assert saved(*arguments, "--json", code=13).error["type"] == "TagExists"
    assert saved(*arguments, "--exist-ok").out.startswith("bert:v2\t")
    assert saved(*arguments, "--exist-ok", "--json").json["is_new"] is False
    assert "is saved already, the very same" in saved.on_terminal(*arguments, "--exist-ok")
    assert saved(*arguments, "--exist-ok", "-l", "more=x", code=13).out == ""
    assert saved("save", "bert:v3", files, "--exist-ok", "--json").json["is_new"] is True
