"""Two processes after one tag: exactly one wins, the other is told, and the winner's bytes stay."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

import casstore
from tests.kit import Child

pytestmark = pytest.mark.crash

ROUNDS = 1000


def test_one_winner_a_round(home: Path, store: casstore.Store, settled_store) -> None:
    """Two processes save different content under the same tag, a thousand times."""
    gates = [os.pipe() for _ in range(2)]
    answers, answer = os.pipe()

    def save(mine: int) -> None:
        with casstore.Store(home, auto_gc=False) as own:
            for number in range(ROUNDS):
                os.read(gates[mine][0], 1)
                won = b"0"
                try:
                    with own.create(f"race:{number}", materialize=False, durability="relaxed") as draft:
                        Path(draft.path, "who").write_bytes(b"%d of %d" % (mine, number))
                    won = b"1"
                except casstore.TagExists:
                    pass
                os.write(answer, b"%d" % mine + won)

    children = [Child(partial(save, mine)) for mine in range(2)]
    winners = []
    for _ in range(ROUNDS):
        for _, gate in gates:
            os.write(gate, b"g")
        said = b""
        while len(said) < 4:
            said += os.read(answers, 4 - len(said))
        outcome = {int(said[i : i + 1]): said[i + 1 : i + 2] for i in (0, 2)}
        assert sorted(outcome.values()) == [b"0", b"1"]
        winners.append(next(mine for mine, won in outcome.items() if won == b"1"))
    assert [each.wait() for each in children] == [0, 0]
    assert len(store.list("race")) == ROUNDS
    for number, winner in enumerate(winners):
        with store.get(f"race:{number}").open("who") as file:
            assert file.read() == b"%d of %d" % (winner, number)
    print(f"{ROUNDS} rounds, won {winners.count(0)} to {winners.count(1)}")
    settled_store()
