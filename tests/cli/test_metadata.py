"""What `-m` makes of its values, and how metadata is told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.cli.verbs.save import _parse_metadata, _read_metadata
from tests.cli.conftest import Cli

MEANT = [
    ("7e10", "7e10"), ("1234e56", "1234e56"), ("80e5005", "80e5005"), ("1.10", "1.10"), ("1.0", 1.0), ("0.93", 0.93),
    ("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("null", "null"), ("true", True),
    ("false", False), ("True", "True"), ("12", 12), ("-3", -3), ("007", "007"), ("+5", "+5"), ("-0", "-0"), ("", ""),
    ("12345678901234567890", 12345678901234567890), ("1e400", "1e400"), (" 5", " 5"), ("5 ", "5 "),
    ("1E5", "1E5"), ('"7"', "7"), ('["en", 1e3]', ["en", 1000.0]), ('{"a": null}', {"a": None}), ("[en]", "[en]"),
    ("9" * 5000, "9" * 5000), ("0123456", "0123456"), ("a=b", "a=b"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), MEANT)
def test_a_value_is_text_unless_it_is_plainly_json(text, value) -> None:
    found = _parse_metadata((f"key={text}",))
    assert (found, type(found["key"])) == ({"key": value}, type(value))


@given(st.from_regex("[0-9a-f]{6,40}", fullmatch=True))
def test_no_git_hash_loses_a_digit(text) -> None:
    assert str(_parse_metadata((f"commit={text}",))["commit"]) == text


@given(st.text(max_size=20))
def test_what_is_no_text_prints_as_it_was_typed(text) -> None:
    value = _parse_metadata((f"key={text}",))["key"]
    assert isinstance(value, (str, list, dict)) or json.dumps(value) == text


JSON = [("3e-4", 0.0003), ("null", None), ("NaN", float("nan")), ("1.10", 1.1), ('"x"', "x"), ("[1, 2]", [1, 2])]


@pytest.mark.parametrize(("text", "value"), JSON)
def test_with_a_colon_it_is_json(text, value) -> None:
    assert repr(_parse_metadata((f"key:={text}", "other=1"))) == repr({"key": value, "other": 1})


@pytest.mark.parametrize("text", ["abc", "", "'x'", "1.10.1"])
def test_with_a_colon_it_must_be_json(text) -> None:
    with click.Context(click.Command("save")), pytest.raises(click.UsageError, match=f"write key={text}"):
        _parse_metadata((f"key:={text}",))


@pytest.mark.parametrize("text", ["1e999", "-1e999", '{"a": [1, 2e308]}', "1" + "0" * 400 + ".0"])
def test_with_a_colon_no_number_becomes_an_infinity(text, tmp_path: Path) -> None:
    document = tmp_path / "metadata.json"
    document.write_text(f'{{"key": {text}}}')
    with click.Context(click.Command("save")):
        with pytest.raises(click.UsageError, match=r"key:=.*the number .* is too large; .*quotes.*Infinity"):
            _parse_metadata((f"key:={text}",))
        with document.open() as file, pytest.raises(click.UsageError, match=r"metadata.json: the number .* too large"):
            _read_metadata(file)
        if text.startswith("{"):
            with pytest.raises(click.UsageError, match=r"key=.*the number .* is too large"):
                _parse_metadata((f"key={text}",))
        else:
            assert _parse_metadata((f"key={text}",)) == {"key": text}, "all that is not plainly JSON is text"
        assert math.isinf(_parse_metadata(("key:=Infinity",))["key"])


def test_json_has_the_metadata_and_is_json(cli: Cli, files: Path) -> None:
    done = cli("save", "bert:v1", files, "-m", "commit=7e10", "-m", "auc=0.5", "-m", "loss:=[NaN, -Infinity]", "--json")
    metadata = {"auc": 0.5, "commit": "7e10", "loss": [None, None]}
    assert done.json["metadata"] == metadata
    for document in (cli("show", "bert:v1", "--json").out, cli("list", "--json").out):
        parsed = json.loads(document, parse_constant=pytest.fail)
        assert parsed.get("versions", [parsed])[0]["metadata"] == metadata
    assert "metadata.loss\t[NaN, -Infinity]" in cli("show", "bert:v1").out
