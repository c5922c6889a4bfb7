"""How do requests to a remote grow with what is in it, and what would 1 PB cost?

    python benchmarks/remote_scale.py [--versions 10 100 1000] [--dir DIR]

Method: versions are pushed to a remote that is a directory, of which every call counts as the request that an object
store would see; a listing counts one for every thousand objects. Each thing is counted with few versions there and with
more. What grows is listings of refs, pushes and packs and what gc reads of each version; the slopes between the two
largest counts give what 100,000 versions of 10 GB would take (1 PB, 10^9 chunks of 1 MiB): each is 10,000 chunks in 160
packs, so that listings of packs are reckoned with 16 million. Prices are S3's usual ones, not looked up: 5 USD for a
million PUT or LIST, 0.40 for a million GET.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import measure

import casstore
from casstore.remote.backend import Entry
from casstore.remote.directory import DirectoryBackend

_PAGE = 1000
_VERSIONS = 100_000
_PACKS = 160 * _VERSIONS
_USD = {"PUT": 5e-6, "LIST": 5e-6, "GET": 0.4e-6}
_KINDS = ("PUT", "LIST", "GET", "DELETE")

counted: Counter[str] = Counter()


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--versions", type=int, nargs="+", default=[10, 100, 1000], help="with how many there")
    arguments = parser.parse_args()
    count_requests()
    with measure.workplace(arguments.dir) as place:
        taken = {count: requests(place / str(count), count) for count in sorted(arguments.versions)}
        print(f"{measure.machine(place)}\n")
    rows = [
        (f"{what}, {count:,} there", *(str(found[kind]) for kind in _KINDS))
        for what in next(iter(taken.values()))
        for count, found in ((count, each[what]) for count, each in taken.items())
    ]
    measure.print_markdown("Requests", ("", *_KINDS), rows)
    few, many = sorted(taken)[-2:]
    rows = []
    for what, found in taken[many].items():
        slopes = {kind: (found[kind] - taken[few][what][kind]) / (many - few) for kind in _KINDS}
        reckoned = {kind: round(found[kind] + slopes[kind] * (_VERSIONS - many)) for kind in _KINDS}
        if what.startswith("gc"):
            reckoned["LIST"] += math.ceil(_PACKS / _PAGE)
        usd = sum(reckoned[kind] * price for kind, price in _USD.items())
        rows.append((what, *(f"{reckoned[kind]:,}" for kind in _KINDS), f"{usd:.4f}"))
    measure.print_markdown("Reckoned for 1 PB: 100,000 versions, 16,000,000 packs", ("", *_KINDS, "USD"), rows)


def count_requests() -> None:
    """Have every directory that is a remote count what is asked of it."""
    for name, kind in (("create", "PUT"), ("put", "PUT"), ("get", "GET"), ("get_range", "GET")):
        setattr(DirectoryBackend, name, counting(getattr(DirectoryBackend, name), kind))
    list_all, delete_all = DirectoryBackend.list, DirectoryBackend.delete

    def list_paged(self: DirectoryBackend, prefix: str, after: str = "") -> Iterator[Entry]:
        number = 0
        counted["LIST"] += 1
        for number, entry in enumerate(list_all(self, prefix, after), 1):
            counted["LIST"] += number > _PAGE and number % _PAGE == 1
            yield entry

    def delete(self: DirectoryBackend, keys: Sequence[str]) -> None:
        counted["DELETE"] += math.ceil(len(keys) / _PAGE)
        delete_all(self, keys)

    DirectoryBackend.list, DirectoryBackend.delete = list_paged, delete  # type: ignore[method-assign]


def counting(real: Callable[..., object], kind: str) -> Callable[..., object]:
    def ask(*arguments: object) -> object:
        counted[kind] += 1
        return real(*arguments)

    return ask


def requests(place: Path, versions: int) -> dict[str, Counter[str]]:
    """What each thing takes, where so many versions are there."""
    url = str(place / "remote")
    place.mkdir()
    found: dict[str, Counter[str]] = {}
    with casstore.Store(place / "store", auto_gc=False) as store, store.add_remote("origin", url) as there:
        for number in range(versions):
            save(store, number)
        there.push()
        save(store, versions)

        def count(what: str, do: Callable[[], object]) -> None:
            there.close()
            counted.clear()
            do()
            found[what] = Counter(counted)

        count("push of a new version", lambda: there.push(tag(versions)))
        count("push of what is there", lambda: there.push(tag(versions)))
        count("status, seen before", there.status)
        count("list, seen before", there.list)
        count("gc, nothing to remove", there.gc)
        there.delete(tag(0))
        count("gc, one version to remove", there.gc)
    with casstore.Store(place / "second", auto_gc=False) as store, store.add_remote("origin", url, make=False) as there:
        count("status, never seen, after gc", there.status)
        count("pull of one version", lambda: there.pull(tag(1)))
    return found


def tag(number: int) -> str:
    return f"m{number % 1000}:v{number}"


def save(store: casstore.Store, number: int) -> None:
    with store.create(tag(number), materialize=False, durability="relaxed") as draft:
        Path(draft.path, "w.bin").write_bytes(str(number).encode() * 100)


if __name__ == "__main__":
    main()
