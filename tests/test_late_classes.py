"""Data classes that are made when they are first used are those of `dataclasses`, at that time."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, field
from threading import Barrier
from typing import Any

import pytest

from casstore.late_classes import dataclass


@dataclass(frozen=True, slots=True)
class Frozen:
    """A frozen one."""

    name: str
    size: int = 3
    more: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("less than nothing")

    @property
    def twice(self) -> int:
        return 2 * self.size


@dataclass(frozen=True, slots=True, order=True)
class Ordered:
    number: int
    name: str = ""

    def __repr__(self) -> str:
        return f"<{self.number}>"


@dataclass(slots=True)
class Open:
    names: list[str] = field(default_factory=list)
    _count: int = field(init=False, default=0)


@dataclass(slots=True)
class Inheriting(Open):
    size: int = 1


class Child(Open):
    def __init__(self) -> None:
        super().__init__(["a child"])


def unmade() -> Any:
    """A data class that nobody has used yet."""

    @dataclass(frozen=True, slots=True)
    class Unmade:
        name: str
        size: int = 3
        more: Mapping[str, int] = field(default_factory=dict)

    return Unmade


def test_instances_are_made_as_those_of_dataclasses() -> None:
    made = Frozen("a", more={"b": 1})
    assert (made.name, made.size, made.more, made.twice) == ("a", 3, {"b": 1}, 6)
    assert repr(made) == "Frozen(name='a', size=3, more={'b': 1})"
    assert Frozen("a") == Frozen("a", 3, {}) != Frozen("b")
    assert Frozen("a").more is not Frozen("a").more
    assert Frozen.__doc__ == "A frozen one."
    assert not hasattr(made, "__dict__")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        Frozen()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="less than nothing"):
        Frozen("a", -1)
    with pytest.raises(FrozenInstanceError):
        made.size = 4  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del made.size
    match made:
        case Frozen(name, size):
            assert (name, size) == ("a", 3)
        case _:
            pytest.fail("no match")


def test_frozen_ones_have_a_hash_and_open_ones_none() -> None:
    assert {Ordered(1), Ordered(1), Ordered(2)} == {Ordered(2), Ordered(1)}
    assert hash(Ordered(1, "a")) == hash((1, "a"))
    with pytest.raises(TypeError, match="unhashable type: 'Open'"):
        hash(Open())


def test_order_and_what_the_class_has_of_its_own() -> None:
    assert sorted([Ordered(2), Ordered(1, "b"), Ordered(1, "a")]) == [Ordered(1, "a"), Ordered(1, "b"), Ordered(2)]
    assert repr(Ordered(1)) == "<1>"


def test_open_ones_change_and_inherit() -> None:
    made = Inheriting(["a"], size=2)
    made.size += 1
    made.names.append("b")
    assert repr(made) == "Inheriting(names=['a', 'b'], _count=0, size=3)"
    assert not hasattr(made, "__dict__")
    assert Child().names == ["a child"]
    with pytest.raises(AttributeError):
        made.nothing = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("use", [
    dataclasses.fields,
    inspect.signature,
    lambda made: made.__match_args__,
    lambda made: made("a"),
    lambda made: made.__repr__,
    dataclasses.is_dataclass,
])  # fmt: skip
def test_whatever_is_used_first_makes_all(use: Any) -> None:
    made = unmade()
    use(made)
    assert [each.name for each in dataclasses.fields(made)] == ["name", "size", "more"]
    assert str(inspect.signature(made)).startswith("(name: 'str', size: 'int' = 3, more: ")
    assert dataclasses.replace(made("a"), size=4) == made("a", 4)
    assert dataclasses.asdict(made("a")) == {"name": "a", "size": 3, "more": {}}


def test_they_are_pickled_and_copied() -> None:
    for each in (Frozen("a", 2, {"b": 1}), Ordered(1), Inheriting(["a"], 2)):
        assert pickle.loads(pickle.dumps(each)) == each
        assert copy.copy(each) == copy.deepcopy(each) == each


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python 3.13 has copy.replace")
def test_copies_may_be_made_with_other_values() -> None:
    assert copy.replace(unmade()("a"), size=4).size == 4  # type: ignore[attr-defined]


def test_one_that_arrives_before_any_was_made() -> None:
    made = unmade()
    arrived = made.__new__(made)
    arrived.__setstate__(["a", 3, {}])
    assert arrived == made("a")


def test_threads_may_use_one_first_at_once() -> None:
    for _ in range(20):
        made, start = unmade(), Barrier(4)

        def use(made: Any = made, start: Barrier = start) -> Any:
            start.wait()
            return made("a")

        with ThreadPoolExecutor(4) as pool:
            found = [each.result() for each in [pool.submit(use) for _ in range(4)]]
        assert found == [made("a")] * 4
