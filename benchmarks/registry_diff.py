"""How long does it take to tell which of 1,000 tensors differ between two versions, and by how much?

    python benchmarks/registry_diff.py [--dir DIR] [--rounds N]

Method: two versions of a model of 1,000 tensors, half of which differ, once in a safetensors file and once as
`torch.save` writes it (its pickle is read for the names of the parameters). The table of tensors is made from the
catalog, in an open store. `values` reads and compares the half that differs.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import measure
import numpy as np

import casstore

# Classes and words are written once, and named by their number from then on, as pickle does.
_ONCE = (
    b"ctorch._utils\n_rebuild_tensor_v2\nq\x000X\x07\x00\x00\x00storageq\x010ctorch\nFloatStorage\nq\x020"
    b"ccollections\nOrderedDict\nq\x030"
)
_OF_TENSOR = b"h\x00((h\x01h\x02"
_REST = b"\x89h\x03)RtR"


def diff(store: casstore.Store, place: Path, tensors: int, kib: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each comparison, of models of that many tensors of that many KiB."""
    for version in (1, 2):
        values = {
            f"model.layers.{number // 10}.part.{number % 10}.weight": _weights(number, kib, changed=version == 2)
            for number in range(tensors)
        }
        for kind, content in (("safetensors", _safetensors(values)), ("torch", _torch(values))):
            path = place / f"model.{kind}"
            path.write_bytes(content)
            store.save(f"{kind}:v{version}", path)

    def taken(kind: str, *, values: bool = False) -> float:
        return 1000 * measure.seconds(lambda: store.diff(f"{kind}:v1", f"{kind}:v2", values=values))

    return measure.in_turns(
        rounds,
        {
            "tensors of safetensors": lambda: taken("safetensors"),
            "tensors of torch.save": lambda: taken("torch"),
            "their values, safetensors": lambda: taken("safetensors", values=True),
        },
    )


def _weights(number: int, kib: int, *, changed: bool) -> bytes:
    values = np.random.default_rng(number).normal(size=kib * 256).astype("<f4")
    return (values * (1.001 if changed and number % 2 else 1)).astype("<f4").tobytes()


def _safetensors(tensors: dict[str, bytes]) -> bytes:
    header, position = {}, 0
    for name, raw in tensors.items():
        bounds = [position, position := position + len(raw)]
        header[name] = {"dtype": "F32", "shape": [len(raw) // 4], "data_offsets": bounds}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def _torch(tensors: dict[str, bytes]) -> bytes:
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    pickle = b"\x80\x02" + _ONCE + b"}("
    for key, (name, raw) in enumerate(tensors.items()):
        elements = number(len(raw) // 4)
        storage = text(str(key)) + text("cpu") + elements + b"tQ"
        pickle += text(name) + _OF_TENSOR + storage + number(0) + b"(" + elements + b"t(" + number(1) + b"t" + _REST
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle + b"u.")
        for key, raw in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", raw)
    return file.getvalue()


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--kib", type=int, default=256, help="size of each tensor")
    arguments = parser.parse_args()
    with measure.workplace(arguments.dir) as place, casstore.Store(place / "casstore", auto_gc=False) as store:
        figures = diff(store, place, arguments.tensors, arguments.kib, arguments.rounds)
        title = f"Two versions compared: {arguments.tensors:,} tensors of {arguments.kib} KiB, half of them changed"
        report = measure.Report(title, place)
    limits = {"tensors of safetensors": 50}
    for name, taken in figures.items():
        report.add(name, taken, "ms", at_most=limits.get(name))
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
