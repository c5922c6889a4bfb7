"""Pushes, deletions, gc and readers of one remote at once, in many orders of their calls to the object store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from casstore.errors import IntegrityError
from tests.kit import EVERY
from tests.remote.protocol_mutants import MUTANTS
from tests.remote.stage import ORDERS, SCENES, Broken, Options, Play, Stage, perform

pytestmark = pytest.mark.crash

SEEDS = 15
MOST_SEEDS = 60  # until a mutant is caught
PLAYED = [
    pytest.param(play, options, id=f"{name}-{number}")
    for name, (play, every_option) in SCENES.items()
    for number, options in enumerate(every_option)
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    built = Stage.build(tmp_path_factory.mktemp("stage"))
    yield built
    built.close()


@pytest.mark.parametrize(("play", "options"), PLAYED)
def test_in_any_order_nothing_that_is_needed_goes_and_nothing_else_stays(play: Play, options: Options, stage) -> None:
    for seed in range(SEEDS):
        perform(stage, play, options, seed)


@pytest.mark.parametrize("name", ORDERS)
def test_in_orders_that_chance_seldom_finds(name: str, stage) -> None:
    order = ORDERS[name]
    perform(stage, order.play, order.options, 0, order.steps)


def perform_until_broken(stage: Stage, mutant: str) -> None:
    for order in ORDERS.values():
        perform(stage, order.play, order.options, 0, order.steps)
    writing = [each for name, each in SCENES.items() if name not in ("reading", "pulling")]
    if mutant == "not_waited_for":
        writing = [each for name, each in SCENES.items() if "old listings" in name]
    for seed in range(MOST_SEEDS):
        for play, every_option in writing:
            for options in every_option:
                perform(stage, play, options, seed)


@pytest.mark.crash
@pytest.mark.parametrize("name", MUTANTS)
def test_each_thing_that_safety_rests_on_is_missed(name: str, stage, monkeypatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises((Broken, AssertionError, IntegrityError)):
        perform_until_broken(stage, name)


@pytest.mark.crash
@pytest.mark.parametrize(("play", "options"), PLAYED)
def test_in_many_more_orders(play: Play, options: Options, stage) -> None:
    for seed in range(SEEDS, (40 if EVERY else 4) * SEEDS):
        perform(stage, play, options, seed)
