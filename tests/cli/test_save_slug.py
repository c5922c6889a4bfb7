"""casstore save --slug."""

from pathlib import Path

from tests.cli.conftest import Cli


def test_saving_by_slug(cli: Cli, files: Path) -> None:
    error = cli("save", "meta-llama/Llama-3:v1.0+cu118", files, "--json", code=2).error
    assert (error["type"], error["suggestion"]) == ("InvalidTag", "meta-llama--llama-3:v1.0-cu118")
    done = cli("save", "--slug", "meta-llama/Llama-3:v1.0+cu118", files)
    assert (done.out.split("\t")[0], done.err) == ("meta-llama--llama-3:v1.0-cu118", "")
