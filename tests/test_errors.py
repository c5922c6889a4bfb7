from __future__ import annotations

import inspect
import pickle
import re

import pytest

import casstore
from casstore import errors
from casstore.errors import AmbiguousTag, CasstoreError, InvalidTag, StoreError, TagNotFound

ERRORS = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"( *)[*x·] (\w+)", line)
        if found:
            depth = len(found[1]) // 2
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1] if depth else "Exception"
    assert drawn == {name: cls.__bases__[0].__name__ for name, cls in ERRORS.items()}


def test_every_error_is_public_and_documented() -> None:
    assert set(ERRORS) <= set(casstore.__all__)
    for cls in ERRORS.values():
        assert issubclass(cls, CasstoreError)
        assert cls.__doc__


@pytest.mark.parametrize("name", ERRORS)
def test_errors_survive_pickling(name: str) -> None:
    """They cross process pools, so message and fields must come back."""
    error = ERRORS[name]("what to do next")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == "what to do next"


def test_fields_survive_pickling() -> None:
    missing = pickle.loads(pickle.dumps(TagNotFound("no bert:v1", suggestion="bert:v2")))
    assert (str(missing), missing.suggestion) == ("no bert:v1", "bert:v2")
    invalid = pickle.loads(pickle.dumps(InvalidTag("no a/b", "a--b")))
    assert (str(invalid), invalid.suggestion) == ("no a/b", "a--b")
    ambiguous = pickle.loads(pickle.dumps(AmbiguousTag("which?", ["a:v1", "a:v2"])))
    assert (str(ambiguous), ambiguous.candidates) == ("which?", ("a:v1", "a:v2"))


def test_errors_are_also_what_the_standard_library_raises_there() -> None:
    for name, parent in {
        "InvalidTag": ValueError,
        "TagNotFound": LookupError,
        "AmbiguousTag": LookupError,
        "TagExists": FileExistsError,
        "InvalidMetadata": ValueError,
        "InvalidSource": ValueError,
        "FileChanged": ValueError,
        "InvalidSetting": ValueError,
        "InvalidPolicy": ValueError,
        "InvalidQuery": ValueError,
        "StoreUnwritable": PermissionError,
    }.items():
        assert issubclass(ERRORS[name], parent), name
    assert issubclass(ERRORS["StoreUnwritable"], StoreError)
