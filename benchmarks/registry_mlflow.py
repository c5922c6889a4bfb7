"""MLflow's stores of registered models, for `registry.py`, which starts this with a Python that has MLflow.

    PYTHON registry_mlflow.py PLACE FILE_VERSIONS LIMIT

PLACE/versions says one version a line, in JSON: name, labels, metrics, nanoseconds. The SQLite store gets all of them
by SQL, and the file store the first FILE_VERSIONS by MLflow's own calls, since it writes several files for each. Then
one search is made for each line of the standard input, "sqlite" or "files", and the seconds that it took are answered.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sqlite3
import sys
import time
import warnings
from pathlib import Path

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
WHERE = "tags.stage = 'prod' AND tags.owner = 'owner07'"


def main() -> None:
    warnings.simplefilter("ignore")
    from mlflow.entities.model_registry import ModelVersionTag
    from mlflow.store.model_registry.file_store import FileStore
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    logging.disable(logging.CRITICAL)
    place, file_versions, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    stores = {"sqlite": SqlAlchemyStore(f"sqlite:///{place}/mlflow.db"), "files": FileStore(str(place / "mlflow"))}
    fill(sqlite3.connect(place / "mlflow.db"), place)
    names: set[str] = set()
    with (place / "versions").open(encoding="utf-8") as lines:
        for name, labels, _, _ in map(json.loads, itertools.islice(lines, file_versions)):
            if name not in names:
                stores["files"].create_registered_model(name)
                names.add(name)
            tags = [ModelVersionTag(*each) for each in labels.items()]
            stores["files"].create_model_version(name, "s", "", tags)
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        stores[line.strip()].search_model_versions(WHERE, limit, ["creation_timestamp DESC"])
        print(time.perf_counter() - started, flush=True)


def fill(connection: sqlite3.Connection, place: Path) -> None:
    """Give the SQLite store all versions, with labels and metrics as tags."""
    last: dict[str, int] = {}
    with (place / "versions").open(encoding="utf-8") as lines:
        for name, labels, metrics, at_ns in map(json.loads, lines):
            at = at_ns // 10**6
            if name not in last:
                sql = "INSERT INTO registered_models(name, creation_time, last_updated_time) VALUES (?,?,?)"
                connection.execute(sql, (name, at, at))
            number = last[name] = last.get(name, 0) + 1
            connection.execute(
                "INSERT INTO model_versions(name, version, creation_time, last_updated_time, current_stage, source,"
                " status, run_id) VALUES (?,?,?,?,'None','s','READY','')",
                (name, number, at, at),
            )
            tags = {**labels, **{key: str(value) for key, value in metrics.items()}}
            connection.executemany(
                "INSERT INTO model_version_tags(key, value, name, version) VALUES (?,?,?,?)",
                [(key, value, name, number) for key, value in tags.items()],
            )
    connection.commit()
    connection.close()


if __name__ == "__main__":
    main()
