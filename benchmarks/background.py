"""How long does a training wait for a checkpoint that is saved in the background, and does that make the save slower?

    python benchmarks/background.py [--dir DIR] [--rounds N] [--mib N]

Method: a checkpoint of one safetensors file is written into the draft of a new version before the clock starts, so
that what is timed is the end of the block alone: in turns it saves, and hands over to be saved. In the latter case the
time until the version is there is taken as well. "add" is the copy of a directory into a draft, for a checkpoint that
another program has written.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import measure

import casstore


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of a checkpoint")
    arguments = parser.parse_args()
    numbers = itertools.count()
    with measure.workplace(arguments.dir) as place, casstore.Store(place / "casstore", auto_gc=False) as store:
        source = place / "source"
        source.mkdir()

        def written(materialize: bool, *, add: bool = False) -> casstore.Draft:
            number = next(numbers)
            (source / "model.safetensors").unlink(missing_ok=True)
            measure.write_safetensors(source / "model.safetensors", arguments.mib * measure.MIB, number)
            draft = store.create(f"run:{number:04}", materialize=materialize)
            if not add:
                shutil.copyfile(source / "model.safetensors", Path(draft.path, "model.safetensors"))
            return draft

        report = measure.Report(f"Waiting for a checkpoint of {arguments.mib} MiB", place)
        for materialize in (False, True):
            taken: dict[str, list[float]] = {"waits": [], "in the background": [], "until it is saved": [], "add": []}
            for _ in range(arguments.rounds):
                taken["waits"].append(measure.seconds(written(materialize).commit))
                draft = written(materialize)
                taken["in the background"].append(measure.seconds(draft.commit_async))
                rest = measure.seconds(draft.future.result)
                taken["until it is saved"].append(taken["in the background"][-1] + rest)
                draft = written(materialize, add=True)
                taken["add"].append(measure.seconds(lambda draft=draft: draft.add(source)))  # type: ignore[misc]
                draft.discard()
            for name, seconds in taken.items():
                report.add(
                    f"{name}, {'a directory' if materialize else 'packed'}", [1000 * each for each in seconds], "ms"
                )
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
