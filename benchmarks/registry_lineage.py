"""What does it cost to ask where a version came from, with 100,000 versions?

    python benchmarks/registry_lineage.py [--versions N] [--names N] [--tensors N] [--dir DIR]

Method: a catalog is filled with versions of many names, each with a file of so many tensors, of which a tenth differ
from the version before; every version's parent is the one before under its name, and that of a name's first is the
first version of all. There are no bytes behind it: `Model.parents`, `Store.lineage` and `Store.likely_parents` read the
catalog alone. Each question is asked of several versions in turn, and the median is told. Besides, what parents add to
a save: versions of one small file are saved with two parents and without, in turn.
"""

from __future__ import annotations

import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import measure

import casstore
from casstore.catalog.commits import insert_version
from casstore.description import Description
from casstore.digest import Digest
from casstore.storage.layout import new_id
from casstore.storage.manifest import Base, FileEntry, Manifest
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.tag import Tag

TENSOR_BYTES = 4096
SAVES = 100


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--names", type=int, default=1_000)
    parser.add_argument("--tensors", type=int, default=100)
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place:
        print(f"{measure.machine(place)}\n")
        measure.print_markdown("Questions", ("", "ms"), questions(place / "many", arguments))
        measure.print_markdown("Saves", ("", "ms"), saves(place / "saves"))


def questions(place: Path, arguments: object) -> list[tuple[str, str]]:
    """Milliseconds that each question takes."""
    versions, names, tensors = (int(getattr(arguments, key)) for key in ("versions", "names", "tensors"))
    with casstore.Store(place, auto_gc=False) as store:
        fill(store, versions, names, tensors)
        size = (place / "catalog.db").stat().st_size / 1e9
        tags = [tag_of(number, names) for number in random.Random(2).sample(range(versions), 20)]
        first, last = tag_of(0, names), tag_of(versions - 1, names)
        rows = [
            ("Store.get", median(store.get, tags)),
            ("Model.parents", median(lambda tag: store.get(tag).parents, tags)),
            ("Store.lineage, 20 generations", median(store.lineage, tags)),
            ("Store.lineage of the version that all came from, 1,000 of them", median(store.lineage, [first])),
            (
                "Store.likely_parents among its name",
                median(lambda tag: store.likely_parents(tag, name=tag.name), tags[:3]),
            ),
            ("Store.likely_parents", median(store.likely_parents, [last])),
        ]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shown = [(what, f"{ms:,.2f}") for what, ms in rows]
    return [*shown, ("the catalog, GB", f"{size:.2f}"), ("most memory, MiB, with the filling", f"{held:,.0f}")]


def median(ask: Callable[[Tag], object], tags: list[Tag]) -> float:
    """The median of what the question takes for these versions, in ms."""
    taken = []
    for tag in tags:
        start = time.perf_counter()
        ask(tag)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def tag_of(number: int, names: int) -> Tag:
    """The tag of a version: the names take turns."""
    return Tag(f"name{number % names:04}", f"v{number // names + 1:05}")


def fill(store: casstore.Store, versions: int, names: int, tensors: int) -> None:
    """Insert the rows of all versions, name after name."""
    rng = random.Random(1)
    description = Description().checked()
    origin: Base | None = None
    start = [rng.randbytes(32) for _ in range(tensors)]
    with store._workspace.catalog._connections.write() as connection:
        for name in range(names):
            base, held = origin, list(start)
            for number in range(name, versions, names):
                for _ in range(tensors // 10 if number else 0):
                    held[rng.randrange(tensors)] = rng.randbytes(32)
                blob = Digest.of(b"".join(held))
                segments = (
                    RecipeSegment(((Digest(each), TENSOR_BYTES),), f"model.layers.{at}.mlp.up.weight", "F32", (32, 32))
                    for at, each in enumerate(held)
                )
                recipe = Recipe(blob, TENSOR_BYTES * tensors, "safetensors/1", tuple(segments))
                manifest = Manifest(
                    tag_of(number, names), number, (FileEntry("m.safetensors", False, recipe.size, blob),), (),
                    {blob: recipe}, description, base, casstore.__version__,
                )  # fmt: skip
                insert_version(connection, manifest, new_id() + "-1", number)
                connection.execute(
                    "INSERT INTO blob(digest, size, recipe) VALUES (?,?,?)", (blob, recipe.size, recipe.pack())
                )
                base = Base(manifest.tag, manifest.digest)
                origin = origin or base


def saves(place: Path) -> list[tuple[str, str]]:
    """Milliseconds that a save takes with two parents, and without."""
    taken: dict[str, list[float]] = {"without parents": [], "with two": []}
    with casstore.Store(place, auto_gc=False) as store:
        for number in range(2 * SAVES):
            what = "with two" if number % 2 else "without parents"
            parents = [("m:v0", "finetune"), ("hf://org/base@rev", "finetune")] if number % 2 else None
            start = time.perf_counter()
            with store.create(f"m:v{number}", parents=parents) as draft:
                Path(draft.path, "a").write_bytes(number.to_bytes(4, "little"))
            taken[what].append(1000 * (time.perf_counter() - start))
    return [(what, f"{statistics.median(each):.2f}") for what, each in taken.items()]


if __name__ == "__main__":
    main()
