"""What does it cost to find, name, compare and forget versions, in a store of 100,000 of them?

    python benchmarks/registry.py [--part PART ...] [--dir DIR] [--rounds N] [--versions N] [--mlflow PYTHON]

Method: one store of 100,000 versions of 1,000 names, with 20 metrics each, is made (see registry_ground.py), six names
of it having 10,000 versions each. Things that are compared are measured in turns, warm, in an open store:

- search: `Store.list` of two conditions, sorted, the first 10, read to the end. Beside it MLflow's SQLite store with as
  many versions, all labels and metrics being tags, is asked by `search_model_versions` for two tags; its file store, of
  which a search reads all, with fewer. `--mlflow` is the Python of an environment with mlflow-skinny and sqlalchemy.
- saves: one small file into that store, with 20 metrics and without; and the bytes of the catalog per version.
- aliases: `get` of random tags, and of aliases of the same versions; a move of an alias, which is on disk when the call
  returns, beside an append of 4 KiB and an fsync, on the same disk.
- events: a save with the note of it and without; an annotation; reading all events.
- forget: planning by six rules for a name of 10,000 versions; what a policy adds to a save where nothing is to go;
  forgetting all but 100 of a name's, on disk when it returns, each round another name.
- diff: two versions of a model of 1,000 tensors, half of which differ, as safetensors and as `torch.save` writes it.
- lineage: a catalog of 100,000 versions, each with tensors of which a tenth differ from its parent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import measure
import registry_ground as ground

import casstore
from casstore.actions.registry import policies
from casstore.catalog import commits

METRICS = 20
LIMIT = 10
SEARCHES = {
    "two labels, by time": ("labels.stage = prod and labels.owner = owner07", "-created"),
    "two labels, by a metric": ("labels.stage = prod and labels.owner = owner07", "-metrics.m0"),
    "a label and a metric, by it": ("labels.stage = prod and metrics.m0 > 0.9", "-metrics.m0"),
    "two metrics, 1% each": ("metrics.m0 > 0.99 and metrics.m1 < 0.01", "-metrics.m2"),
    "two metrics, half each": ("metrics.m0 > 0.5 and metrics.m1 < 0.5", "-metrics.m2"),
    "two metrics, half each, by size": ("metrics.m0 > 0.5 and metrics.m1 < 0.5", "-size"),
    "two metrics, all": ("metrics.m0 >= 0 and metrics.m1 <= 1", "-metrics.m2"),
    "two metrics, all, by time": ("metrics.m0 >= 0 and metrics.m1 <= 1", "-created"),
    "two metrics, none": ("metrics.m0 > 0.6 and metrics.m0 < 0.5", "-metrics.m2"),
    "either of two metrics": ("metrics.m0 > 0.9 or metrics.m1 < 0.1", "-metrics.m2"),
    "a metric, and not a label": ("metrics.m0 > 0.1 and not labels.stage = prod", "-metrics.m0"),
    "a pattern of names and a metric": ("name ~ 'name00*' and metrics.m0 > 0.5", "name"),
    "size and time": ("size > 1kB and created < 30d", "-size"),
}
SAVES = 20
GETS = 500
MOVES = 100
BLOCK = b"x" * 4096
RULES = {
    "keep_last": 10, "keep_daily": 7, "keep_monthly": 12, "keep_best": ["metrics.m0:max:3", "metrics.m1:min:3"],
    "keep_every": "metadata.step:10000", "keep_label": "owner=owner07",
}  # fmt: skip
LEFT = 100


class Bench:
    """The store that parts share, made when the first of them needs it, and what has been found out."""

    def __init__(self, place: Path, arguments: argparse.Namespace) -> None:
        self.place, self.rounds, self.names = place, arguments.rounds, arguments.names
        self.versions, self.mlflow, self.arguments = arguments.versions, arguments.mlflow, arguments
        title = f"{arguments.versions:,} versions of {arguments.names:,} names, {METRICS} metrics each"
        self.report = measure.Report(title, place)
        self._store: casstore.Store | None = None
        self._number = itertools.count()
        self._appended = os.open(place / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @property
    def store(self) -> casstore.Store:
        if self._store is None:
            print("making the store", file=sys.stderr)
            self._store = ground.make_store(self.place / "store", self.versions, self.names, METRICS)
        return self._store

    def in_turns(self, parts: dict[str, measure.Part]) -> dict[str, list[float]]:
        for part in parts.values():  # the first time reads from the disk
            part()
        return measure.in_turns(self.rounds, parts)

    def add_ms(self, figures: dict[str, list[float]], at_most: dict[str, float] | None = None) -> None:
        for what, taken in figures.items():
            self.report.add(what, [1000 * each for each in taken], "ms", at_most=(at_most or {}).get(what))

    def append_and_sync(self) -> None:
        """Append 4 KiB to a file that is open, and have them on disk."""
        os.write(self._appended, BLOCK)
        os.fsync(self._appended)

    def save_one(self, **said: object) -> None:
        """Save a small file as a version that is new."""
        number = next(self._number)
        name = ground.tag_of(number, self.names).name
        with self.store.create(f"{name}:s{number}", base=None, **said) as draft:  # type: ignore[arg-type]
            Path(draft.path, "weights.bin").write_bytes(b"weights%d" % number)


def mean(count: int, function: Callable[[], object]) -> float:
    """Seconds that each of so many calls takes."""

    def run() -> None:
        for _ in range(count):
            function()

    return measure.seconds(run) / count


def search(bench: Bench) -> None:
    store = bench.store
    parts: dict[str, measure.Part] = {
        what: lambda where=where, sort=sort: measure.seconds(  # type: ignore[misc]
            lambda: [str(model.tag) for model in store.list(where=where, sort=sort, limit=LIMIT)]
        )
        for what, (where, sort) in SEARCHES.items()
    }
    with _mlflow(bench) as theirs:
        figures = bench.in_turns({**parts, **theirs})
    bench.add_ms(figures, dict.fromkeys(SEARCHES, 30))
    ours = figures["two labels, by time"]
    for what in theirs:
        bench.report.add(f"{what} / casstore", measure.ratios(figures[what], ours), "x", at_least=50)


@contextmanager
def _mlflow(bench: Bench) -> Iterator[dict[str, measure.Part]]:
    """What to measure of MLflow's stores, in a process of its own; nothing where it is not installed."""
    known = subprocess.run([bench.mlflow, "-c", "import mlflow, sqlalchemy"], capture_output=True, check=False)
    if known.returncode:
        print(f"{bench.mlflow} has no MLflow, so it is not measured; --mlflow PYTHON names one", file=sys.stderr)
        yield {}
        return
    few = max(1, bench.versions // 50)
    now = time.time_ns()
    with (bench.place / "versions").open("w", encoding="utf-8") as file:
        for number, (tag, said) in enumerate(ground.described(bench.versions, bench.names, METRICS)):
            at_ns = now - (bench.versions - number) * ground.APART_NS
            file.write(json.dumps([tag.name, said["labels"], said["metadata"]["metrics"], at_ns]) + "\n")
    script = Path(__file__).with_name("registry_mlflow.py")
    command = [bench.mlflow, str(script), str(bench.place), str(few), str(LIMIT)]
    with subprocess.Popen(
        command, cwd=bench.place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def answer(question: str = "") -> str:
            if question:
                print(question, file=asked, flush=True)
            said = answered.readline()
            if not said:
                sys.exit("MLflow has failed")
            return said

        print("filling MLflow's stores", file=sys.stderr)
        answer()
        yield {
            "MLflow, SQLite: two tags, by time": lambda: float(answer("sqlite")),
            f"MLflow, files, of {few:,} versions": lambda: float(answer("files")),
        }
        asked.close()


def saves(bench: Bench) -> None:
    store = bench.store
    with ground.make_store(bench.place / "bare", max(1, bench.versions // 10), bench.names, 0) as bare:
        for what, each in (("with metrics", store), ("without", bare)):
            size = (each.home / "catalog.db").stat().st_size / each.count()
            bench.report.add(f"catalog, per version, {what}", [size], "B")

    def metrics() -> dict[str, object]:
        return {"metrics": {f"m{number}": random.random() for number in range(METRICS)}}

    figures = bench.in_turns({
        "a save with metrics": lambda: mean(SAVES, lambda: bench.save_one(metadata=metrics())),
        "a save without": lambda: mean(SAVES, bench.save_one),
    })  # fmt: skip
    bench.add_ms(figures)
    ratios = measure.ratios(figures["a save with metrics"], figures["a save without"])
    bench.report.add("a save: with / without metrics", ratios, "x", at_most=1.3)


def aliases(bench: Bench) -> None:
    store, rng = bench.store, random.Random(2)
    tags = [ground.tag_of(number, bench.names) for number in rng.sample(range(bench.versions), GETS)]
    meant = {f"{tag.name}@prod": tag for tag in tags}
    for alias, tag in meant.items():
        store.set_alias(alias, tag)
    one, other = (ground.tag_of(number, bench.names) for number in (0, 10))
    turn = itertools.cycle((one, other))
    by_alias, of_meant = list(meant), list(meant.values())

    def get(what: str) -> None:
        assert store.get(what).tag.name

    figures = bench.in_turns({
        "get(n:v)": lambda: mean(GETS, lambda: get(str(rng.choice(of_meant)))),
        "get(n@alias)": lambda: mean(GETS, lambda: get(rng.choice(by_alias))),
    })  # fmt: skip
    moves, appends = "set_alias", "append 4 KiB, fsync"
    figures |= {moves: [], appends: []}
    for _ in range(bench.rounds):  # by turns one of each: what a sync takes changes from one moment to the next
        taken = [
            (
                measure.seconds(lambda: store.set_alias(f"{one.name}@moving", next(turn))),
                measure.seconds(bench.append_and_sync),
            )
            for _ in range(MOVES)
        ]
        figures[moves].append(sum(pair[0] for pair in taken) / MOVES)
        figures[appends].append(sum(pair[1] for pair in taken) / MOVES)
    bench.add_ms(figures)
    for above, below, most in (("get(n@alias)", "get(n:v)", 1.3), (moves, appends, 2)):
        bench.report.add(f"{above} / {below}", measure.ratios(figures[above], figures[below]), "x", at_most=most)


def events(bench: Bench) -> None:
    store, noting = bench.store, commits.note_event
    spent: dict[str, list[float]] = {"note": [], "none": []}

    def save(what: str) -> float:
        commits.note_event = noting if what == "note" else lambda *_, **__: None
        try:
            before = time.process_time()
            taken = mean(SAVES, bench.save_one)
            spent[what].append((time.process_time() - before) / SAVES)
            return taken
        finally:
            commits.note_event = noting

    tag = ground.tag_of(0, bench.names)
    figures = bench.in_turns({
        "a save, noted": lambda: save("note"),
        "a save, not noted": lambda: save("none"),
        "annotate": lambda: mean(SAVES, lambda: store.annotate(tag, metrics={"f1": random.random()})),
    })  # fmt: skip
    bench.add_ms(figures)
    ratios = measure.ratios(figures["a save, noted"], figures["a save, not noted"])
    bench.report.add("a save: noted / not noted", ratios, "x")
    ratios = measure.ratios(spent["note"], spent["none"])
    bench.report.add("the same, time of the processor", ratios, "x")
    count = len(store.events())
    bench.add_ms(bench.in_turns({f"events, all {count:,}": lambda: measure.seconds(store.events)}))


def forget(bench: Bench) -> None:
    store = bench.store
    names = [ground.tag_of(number, bench.names).name for number in range(ground.BIG_NAMES)]
    turn = itertools.cycle(names)

    def plan(name: str = names[0]) -> float:
        def run() -> None:
            found = store.forget(name, **RULES)
            assert sum(each.frees_bytes for each in found.versions) == found.frees_bytes

        return measure.seconds(run)

    newest = store.get(names[0]).tag
    store.set_policy(names[0], keep_within="10y", keep_best="metrics.m0:max:3")
    rounds = min(bench.rounds, ground.BIG_NAMES)
    figures = bench.in_turns(
        {
            "plan of forget, 10% of all versions": plan,
            "a policy after a save": lambda: measure.seconds(
                lambda: policies.apply_after_save(store._workspace, newest)
            ),
        },
    )
    store.unset_policy(names[0])
    figures |= measure.in_turns(
        rounds,
        {"forget 10% of all versions": lambda: measure.seconds(
            lambda: store.forget(next(turn), keep_last=LEFT, dry_run=False)
        )},
    )  # fmt: skip
    bench.add_ms(figures, {"plan of forget, 10% of all versions": 1_000, "forget 10% of all versions": 10_000})


def diff(bench: Bench) -> None:
    tensors, kib = bench.arguments.tensors, 64
    with casstore.Store(bench.place / "models", auto_gc=False) as store:
        for version in (1, 2):
            for kind, content in ground.models(tensors, kib, changed=version == 2).items():
                path = bench.place / f"model.{kind}"
                path.write_bytes(content)
                store.save(f"{kind}:v{version}", path, materialize=False)

        def taken(kind: str, *, values: bool = False) -> Callable[[], float]:
            return lambda: measure.seconds(lambda: store.diff(f"{kind}:v1", f"{kind}:v2", values=values))

        tables = {f"diff of {tensors:,} tensors, {kind}": taken(kind) for kind in ("safetensors", "torch")}
        values = {f"and of their values, {tensors * kib // 1024} MiB": taken("safetensors", values=True)}
        bench.add_ms(bench.in_turns({**tables, **values}), {f"diff of {tensors:,} tensors, safetensors": 50})


def lineage(bench: Bench) -> None:
    versions, names = bench.versions, bench.names
    rng = random.Random(2)
    with casstore.Store(bench.place / "descent", auto_gc=False) as store:
        print("making versions that came from one another", file=sys.stderr)
        ground.fill_with_descent(store, versions, names, bench.arguments.descent_tensors)
        first, last = ground.descending(0, names), ground.descending(versions - 1, names)

        def of_any(ask: Callable[[casstore.Tag], object]) -> float:
            return mean(LIMIT, lambda: ask(ground.descending(rng.randrange(versions), names)))

        figures = bench.in_turns({
            "Model.parents": lambda: of_any(lambda tag: store.get(tag).parents),
            "lineage, 20 generations": lambda: of_any(store.lineage),
            "lineage of what all came from": lambda: measure.seconds(lambda: store.lineage(first)),
            "lineage --infer among a name": lambda: of_any(lambda tag: store.likely_parents(tag, name=tag.name)),
            f"lineage --infer, of {bench.arguments.descent_tensors} tensors each": lambda: measure.seconds(
                lambda: store.likely_parents(last)
            ),
        })  # fmt: skip
    bench.add_ms(figures)


PARTS = {part.__name__: part for part in (search, saves, aliases, events, forget, diff, lineage)}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be given again")
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--names", type=int, default=1_000)
    parser.add_argument("--tensors", type=int, default=1_000, help="of a model that is compared")
    parser.add_argument("--descent-tensors", type=int, default=40, help="of a version whose lineage is asked")
    parser.add_argument("--mlflow", default=sys.executable, help="a Python with mlflow-skinny and sqlalchemy")
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place:
        bench = Bench(place, arguments)
        for name in PARTS:  # forgetting changes the store, so their order is that above
            if not arguments.part or name in arguments.part:
                started = time.perf_counter()
                PARTS[name](bench)
                print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        bench.report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
