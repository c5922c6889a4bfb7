"""How fast are export and import beside BentoML's, and how small is a `.casmodel` of real checkpoints?

    python benchmarks/archives.py [--checkpoints CHECKPOINTS/contrastive-bf16 ...] [--rounds N] [--dir DIR]

Method: a version of 128 MB of bf16 values as weights have them, in a casstore and in a BentoML store, in the page
cache. In turns, each exports it to a tar and imports that into a store without it, and exports to `.bentomodel`.
BentoML syncs nothing; casstore's import is measured with both durabilities, and once beside BentoML followed by an
fsync of what it has written. That BentoML can read what casstore has written is checked, not measured. Sizes of
`.casmodel` are shares of the raw bytes of all versions of a set made by checkpoints.py, saved as they come, not packed
before.

Targets: tar both ways at least as fast as BentoML; `.bentomodel` at least 2 times; `.casmodel` at most 0.22.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import peers

import casstore

SIZE = 128_000_000


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoints", type=Path, nargs="*", default=[], help="sets made by checkpoints.py")
    parser.add_argument("--xz-rounds", type=int, default=1, help="the same for .bentomodel: BentoML takes minutes")
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place:
        report = measure.Report("Archives", place)
        speed(report, place, arguments.rounds, arguments.xz_rounds)
        for checkpoints in arguments.checkpoints:
            size(report, place, checkpoints)
    report.print(as_json=arguments.json)


def speed(report: measure.Report, place: Path, rounds: int, xz_rounds: int) -> None:
    bentoml = measure.bento()
    theirs = measure.bento_store(place)
    source = place / "source"
    source.mkdir()
    measure.write_weights(source / "model.safetensors", SIZE, changed=False)
    ours = casstore.Store(place / "casstore", auto_gc=False)
    ours.save("m:v1", source)
    with bentoml.models.create("m:v1", _model_store=theirs) as model:
        shutil.copy(source / "model.safetensors", model.path_of("model.safetensors"))
    fresh = (place / f"fresh-{number}" for number in itertools.count())
    out = place / "out"
    out.mkdir()

    def theirs_export(extension: str) -> measure.Part:
        def run() -> float:
            # An absolute path: a relative one it takes for one below the root.
            return measure.seconds(
                lambda: bentoml.models.export_model("m:v1", str(out / f"theirs{extension}"), _model_store=theirs)
            )

        return run

    def ours_export(extension: str) -> measure.Part:
        return lambda: measure.seconds(lambda: ours.export("m:v1", out / f"ours{extension}"))

    def theirs_import(sync: Callable[[Path], object] = lambda _: None) -> measure.Part:
        def run() -> float:
            home = next(fresh)
            home.mkdir()
            store = type(theirs)(home)

            def work() -> None:
                bentoml.models.import_model(str(out / "theirs.tar"), _model_store=store)
                sync(home)

            taken = measure.seconds(work)
            measure.remove(home)
            return taken

        return run

    def ours_import(durability: str) -> measure.Part:
        def run() -> float:
            home = next(fresh)
            with casstore.Store(home, auto_gc=False) as store:
                taken = measure.seconds(lambda: store.import_archive(out / "ours.tar", durability=durability))
            measure.remove(home)
            return taken

        return run

    figures = measure.in_turns(
        rounds,
        {
            "BentoML: export to tar": theirs_export(".tar"),
            "casstore: export to tar": ours_export(".tar"),
            "BentoML: import of tar": theirs_import(),
            "casstore: import of tar, full": ours_import("full"),
            "casstore: import of tar, relaxed": ours_import("relaxed"),
            "BentoML: import of tar, then fsync": theirs_import(measure.sync_tree),
        },
    )
    figures |= measure.in_turns(
        xz_rounds,
        {
            "BentoML: export to .bentomodel": theirs_export(".bentomodel"),
            "casstore: export to .bentomodel": ours_export(".bentomodel"),
        },
    )
    _check_readable(bentoml, type(theirs), out / "ours.bentomodel", source, next(fresh))
    for name, taken in figures.items():
        report.add(name, taken, "s")

    def compare(what: str, slow: str, fast: str, target: float | None) -> None:
        report.add(what, measure.ratios(figures[slow], figures[fast]), "times", at_least=target)

    compare("export to tar: BentoML / casstore", "BentoML: export to tar", "casstore: export to tar", 1)
    compare("import of tar, full: BentoML / casstore", "BentoML: import of tar", "casstore: import of tar, full", 1)
    compare(
        "import of tar, relaxed: BentoML / casstore", "BentoML: import of tar", "casstore: import of tar, relaxed", 1
    )
    compare(
        "import of tar, both synced: BentoML / casstore",
        "BentoML: import of tar, then fsync", "casstore: import of tar, full", 1,
    )  # fmt: skip
    compare(".bentomodel: BentoML / casstore", "BentoML: export to .bentomodel", "casstore: export to .bentomodel", 2)
    sizes = {name: (out / f"{name}.bentomodel").stat().st_size for name in ("ours", "theirs")}
    report.add(".bentomodel: size, casstore / BentoML", [sizes["ours"] / sizes["theirs"]], "share")
    ours.close()


def _check_readable(bentoml: Any, kind: type[Any], archive: Path, source: Path, home: Path) -> None:
    home.mkdir()
    model = bentoml.models.import_model(str(archive), _model_store=kind(home))
    expected = (source / "model.safetensors").read_bytes()
    assert Path(model.path_of("model.safetensors")).read_bytes() == expected
    measure.remove(home)


def size(report: measure.Report, place: Path, checkpoints: Path) -> None:
    paths = peers.versions(checkpoints)
    archive = place / f"{checkpoints.name}.casmodel"
    with casstore.Store(place / checkpoints.name, auto_gc=False) as store:
        for path in paths:
            store.save(f"m:{path.name}", path)
        tags = [str(model.tag) for model in store.list()]
        taken = measure.seconds(lambda: store.export(tags, archive))
    with casstore.Store(place / f"{checkpoints.name}-again", auto_gc=False) as store:
        imported = measure.seconds(lambda: store.import_archive(archive, materialize=False))
        assert len(store.list()) == len(paths)
    raw = peers.version_bytes(paths)
    what = f"{checkpoints.name}, {len(paths)} versions"
    report.add(f".casmodel, {what}: share of raw", [archive.stat().st_size / raw], "share", at_most=0.22)
    report.add(f".casmodel, {what}: export", [raw / taken / 1e6], "MB/s")
    report.add(f".casmodel, {what}: import", [raw / imported / 1e6], "MB/s")


if __name__ == "__main__":
    main()
