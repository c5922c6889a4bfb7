"""In a catalog of 100,000 versions with 20 metrics each: how long do searches take, and what does the index cost?

    python benchmarks/registry_search.py [--dir DIR] [--rounds N] [--versions N] [--mlflow PYTHON]

Method: the rows of versions of 1,000 names are written by the function that a save writes them with, many in one
transaction, since 100,000 saves take long. Searches are `Store.list` of two conditions, sorted, the first 10, read to
the end. `--mlflow` is the Python of an environment with mlflow-skinny and sqlalchemy: its SQLite store gets as many
versions with the same values as tags, by SQL, and is asked by `search_model_versions`, which takes conditions on tags
by equality and sorts by the version's own columns. Saves are of one small file into that catalog, `full`, in turns.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import measure

import casstore
from casstore.actions.workspace import Workspace
from casstore.catalog.commits import insert_version
from casstore.description import Description
from casstore.storage.manifest import FileEntry, Manifest

NAMES = 1000
METRICS = [f"m{number:02}" for number in range(19)] + ["acc"]
STAGES = ("dev", "prod", "test")
LIMIT = 10
FIRST_NS = 1_700_000_000 * 10**9
STEP_NS = 60 * 10**9
SAVES = 20
SEARCHES = {
    "two labels, by time": ("labels.stage = prod and labels.seed = 7", "-created"),
    "two labels, by a metric": ("labels.stage = prod and labels.seed = 7", "-metrics.acc"),
    "a label and a metric, by it": ("labels.stage = prod and metrics.acc > 0.9", "-metrics.acc"),
    "two metrics, 1% each": ("metrics.acc > 0.99 and metrics.m00 < 0.01", "-metrics.m01"),
    "two metrics, half each": ("metrics.acc > 0.5 and metrics.m00 < 0.5", "-metrics.m01"),
    "two metrics, half each, by size": ("metrics.acc > 0.5 and metrics.m00 < 0.5", "-size"),
    "two metrics, all": ("metrics.acc >= 0 and metrics.m00 <= 1", "-metrics.m01"),
    "two metrics, all, by time": ("metrics.acc >= 0 and metrics.m00 <= 1", "-created"),
    "two metrics, none": ("metrics.acc > 0.6 and metrics.acc < 0.5", "-metrics.m01"),
    "either of two metrics": ("metrics.acc > 0.9 or metrics.m00 < 0.1", "-metrics.m01"),
    "a metric, and not a label": ("metrics.acc > 0.1 and not labels.stage = prod", "-metrics.acc"),
    "a pattern of names and a metric": ("name ~ 'model-00*' and metrics.acc > 0.5", "name"),
    "size and time": ("size > 5GB and created >= 2023-12-01", "-size"),
}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--mlflow", help="a Python with mlflow-skinny and sqlalchemy")
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place, casstore.Store(place / "home", auto_gc=False) as store:
        report = measure.Report(f"{arguments.versions} versions of {NAMES} names, {len(METRICS)} metrics each", place)
        bare = casstore.Store(place / "bare", auto_gc=False)
        sizes = [_fill(each, arguments.versions, metrics) for each, metrics in ((store, True), (bare, False))]
        parts: dict[str, Callable[[], float]] = {
            what: lambda where=where, sort=sort: measure.seconds(  # type: ignore[misc]
                lambda: [str(model.tag) for model in store.list(where=where, sort=sort, limit=LIMIT)]
            )
            for what, (where, sort) in SEARCHES.items()
        }
        figures = measure.in_turns(arguments.rounds, parts)
        for what, taken in figures.items():
            report.add(what, [1000 * each for each in taken], "ms", at_most=30)
        if arguments.mlflow:
            theirs = _mlflow(arguments.mlflow, place, arguments.versions, arguments.rounds)
            report.add("MLflow: two tags, by time", [1000 * each for each in theirs], "ms")
            ratios = measure.ratios(theirs, figures["two labels, by time"])
            report.add("MLflow / casstore: two labels, by time", ratios, "x", at_least=50)
        report.add("catalog, per version with metrics", [sizes[0] / arguments.versions], "B")
        report.add("catalog, per version without", [sizes[1] / arguments.versions], "B")
        saves = measure.in_turns(
            arguments.rounds, {"with": lambda: _saves(store, True), "without": lambda: _saves(store, False)}
        )
        for what, taken in saves.items():
            report.add(f"a save {what} metrics", [1000 * each for each in taken], "ms")
        ratios = measure.ratios(saves["with"], saves["without"])
        report.add("a save: with / without metrics", ratios, "x", at_most=1.3)
        bare.close()
        report.print(as_json=arguments.json)


def _versions(count: int) -> Iterator[tuple[str, dict[str, str], dict[str, float], int, int]]:
    """Of each version: name, labels, metrics, size, and when it was made."""
    rng = random.Random(1)
    for number in range(count):
        labels = {"stage": rng.choice(STAGES), "seed": str(number % 100)}
        metrics = {name: round(rng.random(), 6) for name in METRICS}
        name, size = f"model-{rng.randrange(NAMES):04}", rng.randrange(10**10)
        yield name, labels, metrics, size, FIRST_NS + number * STEP_NS


def _fill(store: casstore.Store, count: int, has_metrics: bool) -> int:
    """Write the rows; returns by how many bytes the catalog has grown."""
    workspace: Workspace = store._workspace
    before = _size(store)
    with workspace.catalog._connections.write() as connection:
        for number, (name, labels, metrics, size, at_ns) in enumerate(_versions(count)):
            said = Description(labels=labels, metadata={"metrics": metrics} if has_metrics else {}).checked()
            file = FileEntry("weights.bin", False, size, casstore.Digest.of(str(number).encode()))
            manifest = Manifest(casstore.Tag.of_checked(name, f"v{number}"), at_ns, (file,), (), {}, said)
            insert_version(connection, manifest, f"{number:016}", at_ns)
    workspace.catalog.tidy()
    return _size(store) - before


def _size(store: casstore.Store) -> int:
    return Path(store.home, "catalog.db").stat().st_size


_saved = 0


def _saves(store: casstore.Store, has_metrics: bool) -> float:
    """Seconds that one save takes, with 20 metrics or without."""
    global _saved
    said = {"metrics": {name: random.random() for name in METRICS}} if has_metrics else {}

    def run() -> None:
        global _saved
        for _ in range(SAVES):
            _saved += 1
            with store.create(f"model-{_saved % NAMES:04}:s{_saved}", metadata=said, base=None) as draft:
                Path(draft.path, "weights.bin").write_bytes(b"weights" + str(_saved).encode())

    return measure.seconds(run) / SAVES


def _mlflow(python: str, place: Path, count: int, rounds: int) -> list[float]:
    """Seconds that each search of MLflow's takes, in a process of its own."""
    lines = "\n".join(json.dumps(version) for version in _versions(count))
    Path(place, "versions").write_text(lines, encoding="utf-8")
    command = [python, "-c", _MLFLOW, str(place), str(rounds), str(LIMIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    taken: list[float] = json.loads(done.stdout.splitlines()[-1])
    return taken


_MLFLOW = """
import json, logging, sqlite3, sys, time
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
logging.disable(logging.CRITICAL)
place, rounds, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = SqlAlchemyStore(f"sqlite:///{place}/mlflow.db")
connection = sqlite3.connect(f"{place}/mlflow.db")
names, last = set(), {}
for line in open(f"{place}/versions"):
    name, labels, metrics, size, at_ns = json.loads(line)
    at = at_ns // 10**6
    if name not in last:
        connection.execute("INSERT INTO registered_models(name, creation_time, last_updated_time) VALUES (?,?,?)",
                           (name, at, at))
    number = last[name] = last.get(name, 0) + 1
    connection.execute("INSERT INTO model_versions(name, version, creation_time, last_updated_time, current_stage,"
                       " source, status, run_id) VALUES (?,?,?,?,'None','s','READY','')", (name, number, at, at))
    tags = {**labels, **{key: str(value) for key, value in metrics.items()}}
    connection.executemany("INSERT INTO model_version_tags(key, value, name, version) VALUES (?,?,?,?)",
                           [(key, value, name, number) for key, value in tags.items()])
connection.commit()
taken = []
for _ in range(rounds):
    started = time.perf_counter()
    found = store.search_model_versions("tags.stage = 'prod' AND tags.seed = '7'", max_results=limit,
                                        order_by=["creation_timestamp DESC"])
    taken.append(time.perf_counter() - started)
    assert found
print(json.dumps(taken))
"""


if __name__ == "__main__":
    main()
