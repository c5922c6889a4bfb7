"""With 10,000 versions in the store, how long do `list` and `get` take?

    python benchmarks/many_versions.py [--dir DIR] [--rounds N]

Method: versions of one small file each, of 100 names, are saved in casstore (durability "relaxed") and written
into a BentoML store as directories with the model.yaml that BentoML's own `ModelInfo.dump` makes (what its
`models.create` leaves behind, without making it list the store each time). Then, warm and in turns: `list` of
everything, `list` of one name, and `get` of random tags. Lists are read to the end, each item's tag and creation
time included.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

import casstore

NAMES = 100
GETS = 500
PAYLOAD = b"weights"


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    arguments = parser.parse_args()
    bentoml = measure.bento()
    tags = [f"name{number % NAMES:03}:v{number // NAMES:05}" for number in range(arguments.versions)]
    with measure.workplace(arguments.dir) as place, casstore.Store(place / "casstore") as store:
        peer_store = measure.bento_store(place)
        build = measure.seconds(lambda: _save_all(store, tags))
        _write_all(bentoml, Path(place / "bentoml"), tags)
        rng = random.Random(1)

        def list_all(listing: Callable[[], list[Any]], created: str, expected: int) -> float:
            def run() -> None:
                found = [(str(item.tag), getattr(item, created)) for item in listing()]
                assert len(found) == expected

            return measure.seconds(run)

        def get_some(get: Callable[[str], Any]) -> float:
            wanted = rng.choices(tags, k=GETS)

            def run() -> None:
                for tag in wanted:
                    assert str(get(tag).tag) == tag

            return measure.seconds(run) / GETS

        name, per_name = tags[0].partition(":")[0], len(tags[::NAMES])
        figures = measure.in_turns(
            arguments.rounds,
            {
                "casstore: list": lambda: list_all(store.list, "created_at", len(tags)),
                "BentoML: list": lambda: list_all(peer_store.list, "creation_time", len(tags)),
                "casstore: list of one name": lambda: list_all(lambda: store.list(name), "created_at", per_name),
                "BentoML: list of one name": lambda: list_all(lambda: peer_store.list(name), "creation_time", per_name),
                "casstore: get": lambda: get_some(store.get),
                "BentoML: get": lambda: get_some(lambda tag: bentoml.models.get(tag, _model_store=peer_store)),
                "casstore: get and path": lambda: get_some(lambda tag: _with_path(store.get(tag))),
            },
        )
        report = measure.Report(f"{len(tags)} versions of {NAMES} names in each store", place)
    report.add("casstore: saving one (relaxed)", [1000 * build / len(tags)], "ms")
    for what, taken in figures.items():
        report.add(what, [1000 * each for each in taken], "ms")
    targets = {"list": 100, "list of one name": None, "get": 3}
    for what, target in targets.items():
        report.add(
            f"{what}: BentoML / casstore",
            measure.ratios(figures[f"BentoML: {what}"], figures[f"casstore: {what}"]),
            "x",
            at_least=target,
        )
    report.print(as_json=arguments.json)


def _with_path(model: casstore.Model) -> casstore.Model:
    # Its first use records that the version is in use, at most once an hour.
    assert model.path
    return model


def _save_all(store: casstore.Store, tags: list[str]) -> None:
    for tag in tags:
        with store.create(tag, labels={"stage": "dev"}, metadata={"acc": 0.93}, durability="relaxed") as draft:
            Path(draft.path, "weights.bin").write_bytes(PAYLOAD + tag.encode())


def _write_all(bentoml: Any, home: Path, tags: list[str]) -> None:
    from bentoml._internal.models.model import ModelInfo

    for tag in tags:
        name, _, version = tag.partition(":")
        directory = home / name / version
        directory.mkdir(parents=True)
        info = ModelInfo(
            tag=bentoml.Tag(name, version), module="", api_version="v1", signatures={}, labels={"stage": "dev"},
            options=bentoml.models.ModelOptions(), metadata={"acc": 0.93},
            context=bentoml.models.ModelContext(framework_name="", framework_versions={}),
        )  # fmt: skip
        with (directory / "model.yaml").open("w", encoding="utf8") as file:
            info.dump(file)
        (directory / "weights.bin").write_bytes(PAYLOAD + tag.encode())
        (home / name / "latest").write_text(version)


if __name__ == "__main__":
    main()
