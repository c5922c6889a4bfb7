"""How long does it take to save a directory again, under a new version, when nothing in it has changed?

    python benchmarks/save_again.py [--dir DIR] [--rounds N]

Method: a directory of 100 files, 1 GiB together, is saved once (not timed; its files are older than 2 s by
then, since casstore does not trust the stat of younger ones). Then it is saved again and again under new
versions, in turns with BentoML doing the same: `models.create`, a copy of the directory into `model.path`, exit.
Nothing is synced on BentoML's side, while casstore's saves are "full".
"""

from __future__ import annotations

import shutil
import time

import measure

import casstore

SETTLED_S = 2.5


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--mib", type=int, default=1024, help="size of all files together")
    arguments = parser.parse_args()
    bentoml = measure.bento()
    with measure.workplace(arguments.dir) as place, casstore.Store(place / "casstore") as store:
        peer_store = measure.bento_store(place)
        source = place / "source"
        source.mkdir()
        for number in range(arguments.files):
            size = arguments.mib * measure.MIB // arguments.files
            measure.write_safetensors(source / f"model-{number:05}.safetensors", size, number)
        time.sleep(SETTLED_S)
        first = measure.seconds(lambda: store.save("again", source))

        def ours(durability: str) -> float:
            return measure.seconds(lambda: store.save("again", source, durability=durability))

        def peer() -> float:
            def save() -> None:
                with bentoml.models.create("again", _model_store=peer_store) as model:
                    shutil.copytree(source, model.path, dirs_exist_ok=True)

            taken = measure.seconds(save)
            peer_store.delete(peer_store.get("again").tag)
            return taken

        figures = measure.in_turns(
            arguments.rounds,
            {"casstore, full": lambda: ours("full"), "BentoML": peer, "casstore, relaxed": lambda: ours("relaxed")},
        )
        report = measure.Report(
            f"The same directory saved again: {arguments.files} files, {arguments.mib} MiB together", place
        )
    milliseconds = {name: [1000 * each for each in taken] for name, taken in figures.items()}
    report.add("casstore, first save (copies)", [1000 * first], "ms")
    report.add("casstore, full", milliseconds["casstore, full"], "ms", at_most=50)
    report.add("casstore, relaxed", milliseconds["casstore, relaxed"], "ms")
    report.add("BentoML", milliseconds["BentoML"], "ms")
    report.add(
        "BentoML / casstore, full", measure.ratios(figures["BentoML"], figures["casstore, full"]), "x", at_least=20
    )
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
