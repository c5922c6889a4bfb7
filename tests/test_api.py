"""The public interface is described in full: each docstring by its signature, docs/api.md by the docstrings."""

from __future__ import annotations

import builtins
import doctest
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import casstore
from casstore import models
from tests.kit import plant

ROOT = Path(__file__).parents[1]


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs/make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()


def described() -> Iterator[tuple[str, Any]]:
    """Every public class, function, method and property, with its name."""
    for module, prefix in ((casstore, ""), (models, "models.")):
        for name in module.__all__:
            value = getattr(module, name)
            if name.startswith("__") or name == "SETTINGS":
                continue
            yield f"{prefix}{name}", value
            if isinstance(value, type):
                yield from ((f"{prefix}{name}.{each}", member) for each, member in MAKER.members(value))


DESCRIBED = dict(described())
CALLED = {name: value for name, value in DESCRIBED.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in DESCRIBED.items() if isinstance(value, type)}


def sections_of(value: Any) -> dict[str, str]:
    found: dict[str, str] = MAKER.sections(value.__doc__)
    return found


def explained(value: Any, section: str) -> list[str]:
    return list(MAKER.entries(sections_of(value).get(section, "")))


def test_the_page_is_what_the_docstrings_say() -> None:
    assert MAKER.PAGE.read_text(encoding="utf-8") == MAKER.page(), "type: python docs/make_api.py"


@pytest.mark.parametrize("name", CALLED)
def test_each_parameter_is_explained(name: str) -> None:
    assert sorted(explained(CALLED[name], "Parameters")) == sorted(MAKER.parameters(CALLED[name]))


@pytest.mark.parametrize("name", CLASSES)
def test_each_field_is_explained(name: str) -> None:
    kind = CLASSES[name]
    told = explained(kind, "Parameters") or explained(kind, "Attributes")
    assert sorted(told) == sorted(MAKER.fields(kind)) or not MAKER.fields(kind)
    if "Parameters" in sections_of(kind):
        assert sorted(told) == sorted(MAKER.parameters(kind))


@pytest.mark.parametrize("name", CALLED)
def test_what_is_returned_is_explained(name: str) -> None:
    returned = str(inspect.signature(CALLED[name]).return_annotation)
    told = {"Returns", "Yields"} & sections_of(CALLED[name]).keys()
    assert bool(told) == (returned not in ("None", "NoReturn"))


@pytest.mark.parametrize("name", DESCRIBED)
def test_what_is_raised_is_an_error(name: str) -> None:
    for error in explained(DESCRIBED[name], "Raises"):
        kind = getattr(casstore, error, getattr(builtins, error, None))
        assert isinstance(kind, type), error
        assert issubclass(kind, Exception), error


@pytest.mark.parametrize("name", DESCRIBED)
def test_sections_are_those_of_numpydoc(name: str) -> None:
    found = list(sections_of(DESCRIBED[name]))
    order = ["", "Parameters", "Attributes", "Returns", "Yields", "Raises", "Examples"]
    assert found == [each for each in order if each in found]
    assert sections_of(DESCRIBED[name])[""]


def test_no_docstring_needs_the_one_before() -> None:
    texts = {name: sections_of(value)[""] for name, value in DESCRIBED.items()}
    assert [name for name, text in texts.items() if re.match(r"The same\b|Those\b|As (in|for)?\b|Likewise", text)] == []


EXAMPLES = {name: value for name, value in DESCRIBED.items() if "Examples" in sections_of(value)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_do_what_they_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CASSTORE_HOME", str(tmp_path / ".casstore"))
    plant(tmp_path / "out", {"config.json": b'{"hidden_size": 384}', "model.bin": bytes(range(250)) * 12_000})
    with casstore.Store(tmp_path / "home", auto_gc=False) as store:
        store.save("bert:v1", "out", labels={"stage": "dev"}, metadata={"accuracy": 0.93})
        remote = store.add_remote("origin", str(tmp_path / "remote"))
        parsed = doctest.DocTestParser().get_doctest(
            inspect.cleandoc(EXAMPLES[name].__doc__),
            {"casstore": casstore, "store": store, "remote_url": remote.url},
            name,
            None,
            0,
        )
        said: list[str] = []
        result = doctest.DocTestRunner().run(parsed, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 0
