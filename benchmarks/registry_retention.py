"""How long does `forget` take for a name with 10,000 versions, in a store of 100,000?

    python benchmarks/registry_retention.py [--dir DIR] [--rounds N] [--versions N]

Method: a store of ten names, whose versions are a minute apart and have 20 metrics each (see registry_ground). `plan`:
`Store.forget` with six rules, over one name; the reasons and bytes of all its versions are read. `plan (policies)`:
what a save of a name that a policy matches adds to that save where nothing is to go. `apply`: forgetting all but 100
of the versions of a name, on disk when it returns, each round another name.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import measure
import registry_ground

from casstore.actions.registry import policies

NAMES = 10
METRICS = 20
RULES = {
    "keep_last": 10, "keep_daily": 7, "keep_monthly": 12, "keep_best": ["metrics.m0:max:3", "metrics.m1:min:3"],
    "keep_every": "metadata.step:10000", "keep_label": "owner=owner07",
}  # fmt: skip
LEFT = 100


def figures(place: Path, versions: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, by round."""
    with registry_ground.make_store(place, versions, NAMES, METRICS) as store:
        names = [registry_ground.tag_of(number, NAMES).name for number in range(NAMES)]
        turn = itertools.count()

        def plan() -> float:
            def run() -> None:
                found = store.forget(names[0], **RULES)
                assert len(found.versions) == versions // NAMES
                assert sum(each.frees_bytes for each in found.versions) == found.frees_bytes

            return measure.seconds(run)

        def save() -> float:
            newest = store.get(names[1]).tag
            return measure.seconds(lambda: policies.apply_after_save(store._workspace, newest))

        def apply() -> float:
            name = names[2 + next(turn)]
            seconds = measure.seconds(lambda: store.forget(name, keep_last=LEFT, dry_run=False))
            assert len(store.list(name)) == LEFT
            return seconds

        store.set_policy(names[1], keep_within="10y", keep_best="metrics.m0:max:3")
        return measure.in_turns(min(rounds, NAMES - 2), {"plan": plan, "plan (policies)": save, "apply": apply})


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--versions", type=int, default=100_000)
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place:
        found = figures(place / "casstore", arguments.versions, arguments.rounds)
    for name, seconds in found.items():
        print(
            f"{name:16} median {sorted(seconds)[len(seconds) // 2]:.3f} s of {len(seconds)}, most {max(seconds):.3f} s"
        )


if __name__ == "__main__":
    main()
