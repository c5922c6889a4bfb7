"""docs/bentoml.md: its examples run, in their order, and it names what there is."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from casstore import models

PAGE = Path(__file__).parents[2].joinpath("docs/bentoml.md").read_text(encoding="utf-8")


def test_its_examples_run(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bentoml", minversion="1.4", reason="needs casstore[bentoml]")
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    theirs = "import bentoml\nwith bentoml.models.create('old:v1') as model:\n open(model.path_of('w'), 'w').write('w')"
    run(sys.executable, "-c", theirs, BENTOML_HOME=tmp_path / "bentoml")
    said = []
    for language, block in re.findall(r"^```(console|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if language == "python":
            used = "print(*Iris().classify([[0.1], [2.9]]))" if "class Iris" in block else ""
            said.append(run(sys.executable, "-c", f"{block}\n{used}"))
            continue
        for line in block.splitlines():
            assert line.startswith("$ ")
            if not line.startswith("$ pip install"):
                said.append(run("bash", "-c", line.removeprefix("$ ")))
    text = "\n".join(said)
    for expected in ("old:v1", "bert:v1", "weights.bin", "[1]", "sklearn", "0 1"):
        assert expected in text, text


@pytest.mark.parametrize("name", models.__all__)
def test_it_names_every_name_of_casstore_models(name) -> None:
    assert f"`models.{name}`" in PAGE


def test_casstore_models_takes_what_bentoml_takes() -> None:
    bentoml = pytest.importorskip("bentoml", minversion="1.4", reason="needs casstore[bentoml]")
    assert set(bentoml.models.__all__) - {"BentoModel", "HuggingFaceModel"} <= set(models.__all__)
    for name in ("create", "get", "list", "delete", "import_model", "export_model", "push", "pull"):
        ours = inspect.signature(getattr(models, name)).parameters
        for parameter in inspect.signature(getattr(bentoml.models, name)).parameters.values():
            if parameter.name != "_cloud_client":
                assert ours[parameter.name].kind == parameter.kind, (name, parameter.name)
    members = set(re.findall(r"`(\w+)`|`(\w+)\(\)`", PAGE.partition("| `model.path`")[2].partition("|")[0]))
    for name in {"path", *(one or other for one, other in members)}:
        assert hasattr(models.Model, name)
        assert hasattr(bentoml.Model, name)


def test_its_words_are_real_commands() -> None:
    from casstore.cli.main import cli

    quoted = re.findall(r"`casstore ([a-z-]+)[^`]*`|^\$ casstore (?:--home \S+ )?([a-z-]+)", PAGE, re.MULTILINE)
    assert {one or other for one, other in quoted} <= set(cli.commands)
