"""casstore does what docs/format.md says where the document's own reader, in tests/test_format.py, does not come."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from pathlib import Path

import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from casstore import description, plain_json, tag
from casstore.actions.describing import model_yaml
from casstore.actions.directories import latest
from casstore.actions.exchange import arriving_manifests
from casstore.actions.sources import source
from casstore.archive import casmodel, limits, model_signing
from casstore.digest import DIGEST_BYTES, Digest
from casstore.errors import UnsupportedFormat
from casstore.plain_json import canonical_json
from casstore.remote import documents, segment
from casstore.remote.backend import MOST_DOCUMENT_BYTES
from casstore.storage import manifest as manifests
from casstore.storage import pack, parents, recipe
from casstore.storage.coding.delta import decode_deltas
from casstore.storage.manifest import Manifest

DOCUMENT = Path(__file__).parents[2].joinpath("docs/format.md").read_text(encoding="utf-8")
MIB = 1 << 20


def vector(name):
    _, _, rest = DOCUMENT.partition(f"<!-- vector: {name} -->\n```\n")
    return bytes.fromhex(rest.partition("```")[0])


def test_the_documents_pack_is_what_casstore_writes(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    path.write_bytes(vector("pack"))
    (entry,) = pack.read_entries(path)
    written = []
    stream = pack.PackStream(lambda data: written.append(bytes(data)))
    stream.add(pack.EncodedChunk(Digest.of(b"abc"), 3, 0, b"abc"))
    assert stream.entries == [entry]
    stream.end()
    # Another release of zstd may compress the index otherwise.
    assert b"".join(written)[: 16 + entry.length] == path.read_bytes()[: 16 + entry.length]


def test_the_documents_manifest_is_what_casstore_writes() -> None:
    manifest = Manifest.unpack(vector("manifest"))
    assert manifest.digest == vector("version digest")
    unpacked = [zstandard.ZstdDecompressor().decompress(frame) for frame in (manifest.pack(), vector("manifest"))]
    assert unpacked[0] == unpacked[1]


def test_the_documents_delta_is_decoded() -> None:
    decoded = decode_deltas(vector("delta base"), [vector("delta")], vector("delta grouping"))
    assert decoded == vector("delta chunk")


def nearest(value, places):
    """Of the numbers of so many digits after the first that read back as the value, the nearest; none, if none does."""
    exact, rounded = Decimal(value), Decimal(f"{value:.{places}e}")
    unit = Decimal((0, (1,), rounded.adjusted() - places))
    found = [each for each in (rounded, rounded - unit, rounded + unit) if float(each) == value]
    return f"{min(found, key=lambda each: abs(each - exact)):.{places}e}" if found else ""


def number(value):
    """The words of the document on numbers."""
    if type(value) is int:
        return f"{value:d}"
    digits = next(text for places in range(17) if (text := nearest(value, places)))
    sign = "-" if digits[0] == "-" else ""
    mantissa, power = digits.lstrip("-").split("e")
    exponent = int(power)
    mantissa = mantissa.replace(".", "")
    if not -4 <= exponent <= 15:
        fraction = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
        return f"{sign}{mantissa[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{mantissa}"
    mantissa = mantissa.ljust(exponent + 2, "0")
    return f"{sign}{mantissa[: exponent + 1]}.{mantissa[exponent + 1 :]}"


def text(value):
    named = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    return '"' + "".join(named.get(c, c if c >= " " else f"\\u{ord(c):04x}") for c in value) + '"'


def written(value):
    """The words of the document on canonical JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode())
        return "{" + ",".join(f"{text(key)}:{written(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return text(value) if isinstance(value, str) else number(value)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = st.none() | st.booleans() | TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
    )
)
def test_canonical_json_is_as_documented(value) -> None:
    assert canonical_json(value) == written(value)
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)


@pytest.mark.parametrize(
    "value", [0.0001, 0.00001, 1e15, 1e16, 1.5e16, 1.0, -0.0, 5e-324, 2.0**-24, 2.0**63, 123456789.123]
)
def test_numbers_are_as_documented(value) -> None:
    assert canonical_json(value) == written(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


LIMITS = {
    "chunk, also as encoded": [recipe.MAX_CHUNK_BYTES // MIB, 1],
    "index of a pack": [
        *[pack._MAX_INDEX_BYTES // MIB] * 2, pack._MAX_ROW_BYTES, pack._MAX_ROW_BYTES, pack._RECORD.size
    ],
    "rows of an index": [pack._MAX_ROW_ITEMS, pack._MAX_ROW_ITEMS, 1, 1, 7, 8],
    "a row's place": [pack._HEADER.size, pack._RECORD.size, 0xFFFF, recipe.MAX_CHUNK_BYTES // MIB],
    "file of a manifest": [manifests._MAX_MANIFEST_BYTES >> 30],
    "manifest, decompressed": [
        manifests._ANY_MANIFEST_BYTES // MIB, manifests._MOST_RATIO, manifests._MAX_MANIFEST_BYTES >> 30
    ],
    "items of a manifest, with those of its recipes": [manifests._ANY_ITEMS, manifests._MOST_ITEMS_PER_BYTE, 1, 1],
    "description": [
        description.MAX_DESCRIPTION_CHARACTERS, description._MAX_NESTING, plain_json._MAX_DEPTH, 4300,
        int(plain_json._MOST_BITS * math.log10(2)) // 1000 * 1000,
    ],
    "`name`, `version`": [tag.MAX_PART_CHARACTERS],
    "`parents`": [parents.MOST_PARENTS, parents._MOST_RELATION_CHARACTERS, parents._MOST_CHARACTERS],
    "`model.yaml`, where it is read": [model_yaml.MAX_DESCRIPTOR_BYTES // MIB],
    "`models/<name>/latest`": [latest._MOST_BYTES],
    "directories that are saved": [source._MAX_DEPTH],
    "manifests": [casmodel._MAX_MANIFESTS, casmodel._MAX_MANIFESTS_BYTES >> 30],
    "all of them decompressed": [manifests._MOST_RATIO, manifests._ANY_MANIFEST_BYTES // MIB],
    "items of all of them": [manifests._MOST_ITEMS_PER_BYTE_TOGETHER, manifests._ANY_ITEMS],
    "values of all descriptions, told by their `,`, `[` and `{`": [1, manifests._ANY_VALUES],
    "a path": [arriving_manifests._MAX_PATH_BYTES, arriving_manifests._MAX_DEPTH, arriving_manifests._MAX_NAME_BYTES],
    "`casstore` in a manifest": [arriving_manifests._MAX_NAME_BYTES],
    "files of one version, and of the newest versions of all names together": [
        limits.FREE_BYTES >> 30, limits.MAX_RATIO
    ],
    "document": [MOST_DOCUMENT_BYTES // MIB, documents._MOST_VALUES],
    "signatures of one version": [
        model_signing.MOST_OF_ONE, model_signing.MAX_BUNDLE_BYTES // MIB, casmodel.MAX_SIGNATURES_BYTES // MIB
    ],
    "segment, and each of its sections decompressed": [segment.MOST_BYTES >> 30],
    "rows of its packs": [1, DIGEST_BYTES],
    "rows of its chunks": [1, DIGEST_BYTES],
    "these sections decompressed": [
        segment._ANY_SECTION_BYTES, DIGEST_BYTES, segment._NUMBER_BYTES, segment._PACK_ITEMS, segment._COLUMNS
    ],
    "their items": [segment._ANY_SECTION_ITEMS, segment._PACK_ITEMS + 1, segment._COLUMNS + 1],
}  # fmt: skip


def test_the_limits_are_those_of_the_code() -> None:
    section = DOCUMENT.partition("## Limits")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE))
    rows = {what: said for what, said in rows.items() if what not in ("what", "---")}
    assert rows.pop("`created_at`, and the sum of the sizes of a manifest's files") == "below 2^63"
    found = {
        what: [int(each.replace(",", "")) for each in re.findall(r"\d[\d,]*", said)] for what, said in rows.items()
    }
    assert found == LIMITS


def test_a_chunk_that_stands_twice_in_a_pack_is_read(tmp_path: Path) -> None:
    path = tmp_path / "twice"
    writer = pack.PackWriter(path)
    for _ in range(2):
        writer.add(pack.EncodedChunk(Digest.of(b"abc"), 3, 0, b"abc"))
    writer.add(pack.EncodedChunk(Digest.of(b""), 0, 0, b""))  # of 0 bytes: passed over
    writer.finish(0o444, durable=False)
    assert [entry.digest for entry in pack.read_entries(path)] == [*[Digest.of(b"abc")] * 2, Digest.of(b"")]
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + b"?")  # the trailer: its records are walked
    assert [entry.digest for entry in pack.read_entries(path)] == [*[Digest.of(b"abc")] * 2, Digest.of(b"")]


def test_a_manifest_of_a_feature_that_nobody_knows_is_refused() -> None:
    document = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(vector("manifest")))
    document["requires"] = ["sparse"]
    with pytest.raises(UnsupportedFormat):
        Manifest.unpack(zstandard.compress(msgpack.packb(document)))
