"""How long does a small artifact take that is logged to a run of MLflow which has a large file?

    python benchmarks/mlflow_artifacts.py [--dir DIR] [--mib N] [--artifacts N]

Each call saves the next state of the run, with the large file, and deletes the one before. The first call counts apart:
nothing has been deleted by then. Needs mlflow.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import measure

RUN = "0123456789abcdef" * 2


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--artifacts", type=int, default=8)
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place:
        os.environ |= {"CASSTORE_HOME": str(place / "store"), "CASSTORE_AUTO_GC": "0"}
        print(measure.machine(place), end="\n\n")
        measure.write_random(place / "large.bin", arguments.mib << 20, 0)
        large = _logged(place / "large.bin")
        first, *others = (_logged(_small(place, number)) * 1000 for number in range(arguments.artifacts + 1))
        row = [f"{arguments.mib} MiB", f"{large:.2f} s", f"{first:.0f} ms", f"{measure.spread(others, '.0f')} ms"]
        measure.print_markdown("Logged", ["large", "that itself", "the first small one", "each of those after"], [row])


def _small(place: Path, number: int) -> Path:
    path = place / f"small-{number}.json"
    path.write_text(f'{{"number": {number}}}')
    return path


def _logged(path: Path) -> float:
    from casstore.integrations.mlflow import CasstoreArtifactRepository

    repository = CasstoreArtifactRepository(f"casstore://experiments/1/{RUN}/artifacts")
    began = time.perf_counter()
    repository.log_artifact(str(path))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
