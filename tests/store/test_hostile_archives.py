"""Archives that somebody made to do harm, imported into a store: refused in clear words, or harmless.

Whatever they hold: nothing outside the store changes, nothing of them stays in `sessions/`, nothing in them is run.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import random
import re
import stat
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

import casstore
from casstore.archive import limits
from casstore.storage import sessions
from tests.kit import EVERY, plant, script

pytestmark = pytest.mark.crash

DESCRIPTOR = b"name: evil\nversion: '1'\ncreation_time: '2026-01-01T00:00:00+00:00'\n"
REFUSALS = (casstore.InvalidSource, casstore.IntegrityError)


def member(name, data=b"", kind=tarfile.REGTYPE, target="", mode=0o644, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, target, mode, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def link(name, target):
    return member(name, kind=tarfile.SYMTYPE, target=target)


def hard(name, target):
    return member(name, kind=tarfile.LNKTYPE, target=target)


def folder(name):
    return member(name, kind=tarfile.DIRTYPE, mode=0o755)


def tar(*members, descriptor=DESCRIPTOR, end=bytes(1024), first=True):
    """A tar of these members, after a descriptor, or with `first=False` before it."""
    own = [] if descriptor is None else [member("model.yaml", descriptor)]
    made = b""
    for info, data in [*own, *members] if first else [*members, *own]:
        made += info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)
    return made + end


def raw_header(title, **changes):
    """A header block with some fields as no library writes them, and the right check sum."""
    block = bytearray(member(title)[0].tobuf(tarfile.USTAR_FORMAT))
    places = {"size": (124, 12), "mode": (100, 8), "type": (156, 1), "linkname": (157, 100), "name": (0, 100)}
    for field, value in changes.items():
        start, length = places[field]
        block[start : start + length] = value.ljust(length, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def raw_tar(*blocks):
    return tar(end=b"") + b"".join(blocks) + bytes(1024)


def pax(*records):
    """A pax header of these records, which has to be followed by a member."""
    data = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        while length != len(b"%d %s=%s\n" % (length, key, value)):
            length = len(b"%d %s=%s\n" % (length, key, value))
        data += b"%d %s=%s\n" % (length, key, value)
    return raw_header("pax", type=b"x", size=b"%011o" % len(data)) + data + bytes(-len(data) % 512)


def zipped(*entries, descriptor=DESCRIPTOR, method=zipfile.ZIP_DEFLATED):
    """A zip of (name, data, mode) after a descriptor."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data, *mode in [*([("model.yaml", descriptor)] if descriptor else []), *entries]:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.create_system = 3
            info.external_attr = (mode[0] if mode else stat.S_IFREG | 0o644) << 16
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a name that comes twice
                archive.writestr(info, data)
    return file.getvalue()


def patched(data, old, new, count=-1):
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new, count)


def yaml(text):
    return tar(member("w", b"w"), descriptor=text.encode())


def described(more):
    return yaml(DESCRIPTOR.decode() + more)


class Bomb:
    """Leaves a directory behind when it is unpickled."""

    trace = ""

    def __reduce__(self):
        return (os.mkdir, (Bomb.trace,))


def bomb():
    return pickle.dumps({"bomb": Bomb()})


def python_files():
    code = f"import os; os.mkdir({Bomb.trace!r})".encode()
    return {
        "custom_objects.pkl": bomb(), "model.pt": bomb(), "weights.joblib": bomb(), "model.py": code,
        "__init__.py": code, "sitecustomize.py": code, "evil.pth": code,
    }  # fmt: skip


LAUGHS = "metadata:\n  a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {after}: &{after} [{', '.join(['*' + before] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
SYMLINK = stat.S_IFLNK | 0o777
W = {"w": b"w"}

# Each: what makes it, and what the error says, or, where it is harmless, the files that come of it.
CASES = {
    # names
    "tar: absolute": (lambda: tar(member("/etc/cron.d/evil", b"x")), "absolute path"),
    "tar: leads out": (lambda: tar(member("../evil", b"x")), r"leads out of the archive with '\.\.'"),
    "tar: leads out and in": (lambda: tar(member("a/../../store/evil", b"x")), r"with '\.\.'"),
    "tar: leads out deep": (lambda: tar(member("a/b/../../../../../evil", b"x")), r"with '\.\."),
    "tar: leads out, a directory": (lambda: tar(folder("../evil")), r"with '\.\.'"),
    "tar: drive": (lambda: tar(member("C:/evil", b"x")), "drive letter"),
    "tar: backslashes": (lambda: tar(member("..\\..\\evil", b"x")), "backslash"),
    "tar: no name": (lambda: raw_tar(raw_header("", name=b"")), "empty name"),
    "tar: only dots": (lambda: tar(member("./.", b"x")), "names the archive's root"),
    "tar: no UTF-8": (lambda: raw_tar(raw_header("x", name=b"\xff\xfe")), "not UTF-8"),
    "tar: a NUL by pax": (lambda: raw_tar(pax((b"path", b"a\0b")), raw_header("x")), "NUL"),
    "tar: absolute by pax": (lambda: raw_tar(pax((b"path", b"/evil")), raw_header("x")), "absolute"),
    "tar: two paths": (
        lambda: raw_tar(pax((b"path", b"a")), pax((b"path", b"b")), raw_header("x")), "a second time",
    ),
    "tar: a name of 256 bytes": (lambda: tar(member("a" * 256, b"x")), "more than 255 bytes"),
    "tar: 250 directories": (lambda: tar(member("d/" * 250 + "w", b"x")), "more than 200 directories deep"),
    "tar: 199 directories": (lambda: tar(member("d/" * 199 + "w", b"x")), {"d/" * 199 + "w": b"x"}),
    "tar: a path of 5000 bytes": (lambda: tar(member("/".join(["d" * 200] * 25), b"x")), "more than 4096 bytes"),
    "tar: twice": (lambda: tar(member("w", b"1"), member("w", b"2")), "is in the archive twice"),
    "tar: twice by dots": (lambda: tar(member("w", b"1"), member("./w", b"2")), "is in the archive twice"),
    "tar: case": (lambda: tar(member("w", b"1"), member("W", b"2")), "differ only by case"),
    "tar: case of directories": (lambda: tar(member("a/w", b"1"), member("A/v", b"2")), "differ only by case"),
    "tar: Unicode form": (lambda: tar(member("e\u0301", b"1"), member("\u00e9", b"2")), "Unicode form"),
    "tar: file and directory": (lambda: tar(member("a", b"1"), member("a/b", b"2")), "a directory at once"),
    "tar: directory and file": (lambda: tar(member("a/b", b"1"), member("a", b"2")), "both a directory and a file"),
    "tar: two descriptors": (lambda: tar(member("model.yaml", DESCRIPTOR)), "'model.yaml' twice"),
    "tar: a descriptor in capitals": (lambda: tar(member("MODEL.yaml", b"x")), "differ only by case"),
    "tar: the descriptor as a directory": (
        lambda: tar(member("model.yaml/x", b"x"), descriptor=None), "descriptor's name",
    ),
    "tar: the descriptor as a link": (
        lambda: tar(link("model.yaml", "w"), member("w", b"w"), descriptor=None), "is a link",
    ),
    # links
    "tar: link to /etc/passwd": (lambda: tar(link("w", "/etc/passwd")), "an absolute path"),
    "tar: link out": (lambda: tar(link("w", "../../canary")), "leads out of the archive"),
    "tar: link out through a directory": (lambda: tar(folder("d"), link("d/w", "../../canary")), "leads out"),
    "tar: link to the store": (lambda: tar(link("w", "../../catalog.db")), "leads out"),
    "tar: through a link": (lambda: tar(link("d", "."), member("d/w", b"x")), "leads through the link"),
    "tar: through a link out": (lambda: tar(link("d", ".."), member("d/w", b"x")), "leads through the link"),
    "tar: link chain out": (
        lambda: tar(folder("a"), folder("a/b"), link("l", "a/b"), link("m", "l/../../.."), member("w", b"w")),
        "leads out",
    ),
    "tar: link in a circle": (lambda: tar(link("a", "b"), link("b", "a")), "in a circle"),
    "tar: link to itself": (lambda: tar(link("a", "a")), "in a circle"),
    "tar: link to nothing": (lambda: tar(link("a", "nothing")), "not in the archive"),
    "tar: link to its own directory": (lambda: tar(member("d/w", b"w"), link("d/l", "../d")), "contains it"),
    "tar: a long chain of links": (
        lambda: tar(member("0", b"w"), *(link(f"{n}", f"{n - 1}") for n in range(1, 60))), "through more than 40",
    ),
    "tar: links within": (
        lambda: tar(member("d/w", b"w"), link("l", "d"), link("f", "l/w")), {"d/w": b"w", "l/w": b"w", "f": b"w"},
    ),
    "tar: hard link to /etc/passwd": (lambda: tar(hard("w", "/etc/passwd")), "absolute path"),
    "tar: hard link out": (lambda: tar(hard("w", "../../../catalog.db")), r"with '\.\.'"),
    "tar: hard link to nothing": (lambda: tar(hard("w", "nothing")), "not a file in the archive"),
    "tar: hard link to a directory": (lambda: tar(folder("d"), hard("w", "d")), "not a file in the archive"),
    "tar: hard link to a link": (lambda: tar(link("l", "/etc/passwd"), hard("w", "l")), "absolute|no file"),
    "tar: a link, then a file in its place": (lambda: tar(link("w", "/etc"), member("w", b"x")), "twice"),
    "tar: a file, then a link in its place": (lambda: tar(member("w", b"x"), link("w", "/etc")), "twice"),
    # kinds
    "tar: character device": (lambda: tar(member("w", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)), "device"),
    "tar: block device": (lambda: tar(member("w", kind=tarfile.BLKTYPE)), "block device"),
    "tar: fifo": (lambda: tar(member("w", kind=tarfile.FIFOTYPE)), "named pipe"),
    "tar: sparse": (lambda: raw_tar(raw_header("w", type=b"S")), "sparse"),
    "tar: unknown kind": (lambda: raw_tar(raw_header("w", type=b"Q")), "unknown type"),
    "tar: a volume": (lambda: raw_tar(raw_header("w", type=b"V")), "volume"),
    "tar: setuid": (lambda: tar(member("w", b"w", mode=0o6777)), W),
    "tar: not readable": (lambda: tar(member("w", b"w", mode=0)), W),
    "tar: a directory nobody may enter": (
        lambda: tar(member("d", kind=tarfile.DIRTYPE, mode=0), member("d/w", b"w")), {"d/w": b"w"},
    ),
    "tar: another owner": (lambda: tar(member("w", b"w", uid=12345, gid=54321, uname="root")), W),
    # sizes
    "tar: negative size": (lambda: raw_tar(raw_header("w", size=b"\xff" * 12)), "negative"),
    "tar: 8 EiB": (lambda: raw_tar(raw_header("w", size=b"\x80" + b"\xff" * 11)), "too large"),
    "tar: 4 GiB that are not there": (lambda: raw_tar(raw_header("w", size=b"%011o" % (4 << 30))), "cut short"),
    "tar: a size that is no number": (lambda: raw_tar(raw_header("w", size=b"abc")), "not a number"),
    "tar: a pax size": (lambda: raw_tar(pax((b"size", b"1" * 19)), raw_header("w")), "too large|cut short"),
    "tar: a pax header of a gibibyte": (
        lambda: raw_tar(raw_header("p", type=b"x", size=b"%011o" % (1 << 30))), "take more than",
    ),
    "tar: wrong check sum": (lambda: patched(tar(member("w", b"w")), b"w\0\0", b"v\0\0", 1), "check sum"),
    "tar: goes on after its end": (lambda: tar(end=bytes(1024)) + tar(), "goes on after its end"),
    "tar: cut in a header": (lambda: tar(member("w", b"w" * 5000))[:1300], "cut short"),
    "tar: cut in a file": (lambda: tar(member("w", b"w" * 5000))[:3000], "cut short"),
    "tar: no end": (lambda: tar(member("w", b"w"), end=b""), "cut short"),
    # compression
    "gz: cut": (lambda: gzip.compress(tar(member("w", random.Random(0).randbytes(5000))))[:-500], "cut short"),
    "gz: flipped": (lambda: _flipped(gzip.compress(tar(member("w", b"w")), mtime=0), -6), "damaged"),
    "xz: flipped": (lambda: _flipped(lzma.compress(tar(member("w", b"w"))), 60), "damaged"),
    "bz2: flipped": (lambda: _flipped(bz2.compress(tar(member("w", b"w"))), 60), "damaged"),
    "zst: flipped": (
        lambda: _flipped(zstandard.ZstdCompressor(write_checksum=True).compress(tar(member("w", b"w"))), -2), "damaged",
    ),
    "zst: cut": (lambda: zstandard.compress(tar(member("w", b"w")))[:-5], "cut short|damaged"),
    "gz: bytes behind": (lambda: gzip.compress(tar(member("w", b"w"))) + b"evil", "follow the end"),
    "gz in gz": (lambda: gzip.compress(gzip.compress(tar(member("w", b"w")))), "check sum|cut short"),
    "xz: a dictionary of 1.5 GiB": (
        lambda: lzma.compress(tar(), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1536 << 20}]),
        "MiB of memory",
    ),
    # zip
    "zip: absolute": (lambda: zipped(("/etc/evil", b"x")), "absolute path"),
    "zip: leads out": (lambda: zipped(("../evil", b"x")), r"with '\.\.'"),
    "zip: backslashes": (lambda: zipped(("a\\..\\evil", b"x")), "backslash"),
    "zip: drive": (lambda: zipped(("C:/evil", b"x")), "drive letter"),
    "zip: twice": (lambda: zipped(("w", b"1"), ("w", b"2")), "is in the archive twice"),
    "zip: case": (lambda: zipped(("w", b"1"), ("W", b"2")), "differ only by case"),
    "zip: link to /etc/passwd": (lambda: zipped(("w", b"/etc/passwd", SYMLINK)), "absolute path"),
    "zip: link out": (lambda: zipped(("w", b"../../canary", SYMLINK)), "leads out"),
    "zip: through a link": (lambda: zipped(("d", b".", SYMLINK), ("d/w", b"x")), "leads through the link"),
    "zip: device": (lambda: zipped(("w", b"", stat.S_IFCHR | 0o666)), "device"),
    "zip: fifo": (lambda: zipped(("w", b"", stat.S_IFIFO | 0o666)), "pipe"),
    "zip: a file with the name of a directory": (lambda: zipped(("w/", b"", stat.S_IFREG | 0o644)), "not by both"),
    "zip: encrypted": (
        lambda: _zip_flags(zipped(("w", b"w")), 1), "encrypted",
    ),
    "zip: another name in its own header": (
        lambda: patched(zipped(("abcdef", b"w"), method=zipfile.ZIP_STORED), b"abcdef", b"ABCDEF", 1), "another name",
    ),
    "zip: no end": (lambda: zipped(("w", b"w"))[:-22], "damaged|cannot be read"),
    "zip: goes on after its end": (lambda: zipped(("w", b"w")) + b"evil", "goes on after its end|damaged"),
    "zip: flipped": (
        lambda: patched(zipped(("w", b"content"), method=zipfile.ZIP_STORED), b"content", b"contant"), "damaged",
    ),
    "zip: by lzma": (lambda: zipped(("w", b"w"), method=zipfile.ZIP_LZMA), "method 14"),
    "zip: a claimed size": (lambda: _zip_size(zipped(("w", b"w" * 50)), 49), "damaged|49"),
    # descriptors
    "yaml: none": (lambda: tar(member("w", b"w"), descriptor=None), "has no model.yaml at its top"),
    "yaml: deeper": (lambda: tar(member("d/model.yaml", DESCRIPTOR), descriptor=None), "has no model.yaml"),
    "yaml: empty": (lambda: yaml(""), "not a mapping"),
    "yaml: a list": (lambda: yaml("[1, 2]"), "not a mapping"),
    "yaml: noise": (lambda: tar(descriptor=os.urandom(300)), "not YAML"),
    "yaml: two documents": (lambda: yaml(DESCRIPTOR.decode() + "---\na: 1\n"), "more than one document"),
    "yaml: python/object/apply": (
        lambda: described(f"metadata: !!python/object/apply:os.mkdir ['{Bomb.trace}']\n"), "never made",
    ),
    "yaml: python/object/new": (
        lambda: described(f"labels: !!python/object/new:os.mkdir ['{Bomb.trace}']\n"), "never made",
    ),
    "yaml: python/name": (lambda: described("options: {a: !!python/name:os.system }\n"), "never made"),
    "yaml: python/module": (lambda: described("context: !!python/module:antigravity\n"), "never made"),
    "yaml: a tag of its own": (lambda: described("metadata: {a: !evil b}\n"), "never made"),
    "yaml: aliases that multiply": (lambda: described(LAUGHS), "more than 1,000,000 values"),
    "yaml: an alias of itself": (lambda: described("metadata: &a {a: *a}\n"), "alias"),
    "yaml: deep": (lambda: described("metadata: {a: " + "[" * 90 + "]" * 90 + "}\n"), "nests more than"),
    "yaml: very deep": (lambda: described("metadata: {a: " + "[" * 5000 + "]" * 5000 + "}\n"), "not YAML|nests"),
    "yaml: a merge key": (lambda: described("metadata: {a: &a {b: 1}, c: {<<: *a}}\n"), "merge key"),
    "yaml: a number of a megabyte": (
        lambda: described("metadata: {a: !!int " + "9" * (1 << 20) + "}\n"), "too many digits",
    ),
    "yaml: of 17 MiB": (lambda: tar(descriptor=b"#" * (17 << 20)), "more than 16,777,216 bytes"),
    "yaml: no tag": (lambda: yaml("labels: {}\n"), "no 'name'"),
    "yaml: a tag that leads out": (lambda: yaml(DESCRIPTOR.decode().replace("evil", "../evil")), "not a descriptor"),
    "yaml: a version that leads out": (lambda: yaml(DESCRIPTOR.decode().replace("'1'", "../../x")), "not a descriptor"),
    "yaml: latest": (lambda: yaml(DESCRIPTOR.decode().replace("'1'", "latest")), "latest"),
    "yaml: a version that is a number": (lambda: yaml(DESCRIPTOR.decode().replace("'1'", "1.0")), "put it in quotes"),
    "yaml: a reserved name": (lambda: yaml(DESCRIPTOR.decode().replace("evil", "con")), "con"),
    "yaml: no time": (lambda: yaml(DESCRIPTOR.decode().replace("creation_time", "creation")), "no creation_time"),
    "yaml: a time that is none": (lambda: yaml(DESCRIPTOR.decode().replace("2026-01-01T", "yesterday ")), "not a time"),
    "yaml: the year 0001": (
        lambda: yaml(DESCRIPTOR.decode().replace("2026-01-01T00:00:00+00:00", "0001-01-01T00:00:00+23:00")),
        "out of range",
    ),
    "yaml: the year 9999": (lambda: yaml(DESCRIPTOR.decode().replace("2026", "9999")), W),
    "yaml: labels that are a list": (lambda: described("labels: [a]\n"), "labels is not a mapping"),
    "yaml: signatures that are text": (lambda: described("signatures: {f: text}\n"), "signature"),
    # what is never run
    "pickles and code": (lambda: tar(*(member(name, data) for name, data in python_files().items())), python_files),
    "pickles in a zip": (lambda: zipped(*python_files().items()), python_files),
}  # fmt: skip


def _flipped(data, at):
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def _zip_flags(data, flags):
    """Set flags of the last member in both of its headers."""
    local, central = data.rindex(b"PK\x03\x04"), data.rindex(b"PK\x01\x02")
    made = bytearray(data)
    made[local + 6 : local + 8] = made[central + 8 : central + 10] = struct.pack("<H", flags)
    return bytes(made)


def _zip_size(data, size):
    local, central = data.rindex(b"PK\x03\x04"), data.rindex(b"PK\x01\x02")
    made = bytearray(data)
    made[local + 22 : local + 26] = made[central + 24 : central + 28] = struct.pack("<I", size)
    return bytes(made)


@pytest.fixture(scope="module")
def shared_ground(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("ground")
    for name in ("canary", "evil", "etc/passwd", "near/canary", "near/store-like"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"must not change")
    Bomb.trace = str(root / "it was run")
    with casstore.Store(root / "near/store", auto_gc=False) as store:
        with store.create("kept:1") as draft:
            Path(draft.path, "kept").write_bytes(b"kept")
        yield store


@pytest.fixture
def ground(shared_ground):
    """A store among things that must not change, and where what is run would leave its trace."""
    yield shared_ground
    for tag in shared_ground.tags():
        if tag != "kept:1":
            shared_ground.delete(tag)
            shared_ground.gc()


def left_in_sessions(store):
    """But for the session in which this process holds its leases."""
    mine = {shared.session.id for shared in sessions._process.shared.values()}
    return [name for name in os.listdir(store.home / "sessions") if name.partition(".")[0] not in mine]


def everything(store):
    """All that is around the store, and in it but for its catalog and locks: kinds, modes, times, content."""
    root = store.home.parent.parent
    found: dict[str, tuple[Any, ...]] = {}
    for directory, folders, names in os.walk(root):
        for name in folders + names:
            path = Path(directory, name)
            below = str(path.relative_to(root))
            if below.startswith(("near/store/catalog.db", "near/store/locks", "near/store/sessions")):
                continue
            status = path.lstat()
            is_file = stat.S_ISREG(status.st_mode)
            found[below] = (status.st_mode, status.st_ino, status.st_nlink if is_file else 0, status.st_uid)
            if is_file:
                found[below] += (status.st_mtime_ns, path.read_bytes())
    return found


def attempt(store, data, outcome, **options):
    """Import these bytes, and hold the store to what is promised."""
    before, tags = everything(store), store.tags()
    refusal = None
    try:
        (imported,) = store.import_archive(io.BytesIO(data), durability="relaxed", materialize=False, **options)
    except REFUSALS as error:
        refusal = str(error)
    assert left_in_sessions(store) == []
    assert not Path(Bomb.trace).exists()
    if refusal is None:
        expected = outcome() if callable(outcome) else outcome
        assert isinstance(expected, dict), "it was accepted"
        assert {file.path: imported.model.open(file.path).read() for file in imported.model.files} == expected
        root = Path(imported.model.path)
        assert all(not path.is_symlink() for path in root.rglob("*"))
        assert all(not path.stat().st_mode & 0o6022 for path in root.rglob("*") if path.is_file())
        store.delete(imported.model.tag)
        store.gc()
        assert not Path(Bomb.trace).exists()
    assert store.tags() == tags
    after = everything(store)
    if refusal is None:  # which has been deleted again
        after = {path: what for path, what in after.items() if not path.startswith("near/store/")}
        before = {path: what for path, what in before.items() if not path.startswith("near/store/")}
    assert after == before
    return refusal


@pytest.mark.parametrize("name", CASES)
def test_it(ground, name) -> None:
    make, outcome = CASES[name]
    refusal = attempt(ground, make(), outcome)
    if isinstance(outcome, str):
        assert refusal is not None
        assert re.search(outcome, refusal), refusal
        assert len(refusal) < 1000
        print(f"{name}: {refusal}")


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("tar: ", "yaml: "))])
def test_it_through_a_pipe(ground, name) -> None:
    """Compressed, and from a stream that cannot be sought in."""
    make, outcome = CASES[name]

    class Piped(io.BytesIO):
        def seekable(self):
            return False

    before = everything(ground)
    try:
        ground.import_archive(Piped(zstandard.compress(make())), durability="relaxed", materialize=False)
    except REFUSALS:
        assert everything(ground) == before
    else:
        assert not isinstance(outcome, str)
        ground.delete("evil:1")
        ground.gc()
    assert left_in_sessions(ground) == []
    assert ground.tags() == ["kept:1"]


@pytest.mark.parametrize(
    ("limit", "value", "make", "message"),
    [
        ("FREE_BYTES", 10_000, lambda: gzip.compress(tar(member("w", bytes(3_000_000)))), "expands to"),
        ("FREE_BYTES", 10_000, lambda: lzma.compress(tar(member("w", bytes(3_000_000)))), "expands to"),
        ("FREE_BYTES", 10_000, lambda: zipped(("w", bytes(3_000_000))), "expands to"),
        ("FREE_BYTES", 10_000, lambda: zipped(*((f"{n}", bytes(200_000)) for n in range(20))), "expands to"),
        (
            "FREE_BYTES",
            10_000,
            lambda: gzip.compress(tar(member("w", bytes(50_000)), *(link(f"{n}", "w") for n in range(900)))),
            "expands to",
        ),
        ("MAX_MEMBERS", 100, lambda: tar(*(member(f"{n}") for n in range(200))), "more than 100 members"),
        ("MAX_MEMBERS", 100, lambda: tar(*(folder(f"{n}") for n in range(200))), "more than 100 members"),
        ("MAX_MEMBERS", 100, lambda: tar(member("d/" * 150 + "w")), "more than 100 members"),
        ("MAX_MEMBERS", 100, lambda: zipped(*((f"{n}", b"") for n in range(200))), "more than 100 members"),
        (
            "MAX_MEMBERS",
            100,
            lambda: tar(*(member(f"d/{n}") for n in range(40)), *(link(f"l{n}", "d") for n in range(20))),
            "more than 100 members",
        ),
        (
            "MAX_MEMBERS",
            100,
            lambda: tar(member("0/w"), *(link(f"{n}/{side}", f"../{n - 1}") for n in range(1, 12) for side in "lr")),
            "more than 100 members",
        ),
        ("MAX_LINK_BYTES", 1000, lambda: tar(member("w"), *(link(f"{n}", "./" * 40) for n in range(50))), "links"),
        ("MAX_DESCRIPTOR_BYTES", 1000, lambda: tar(descriptor=DESCRIPTOR + b"#" * 1000), "more than 1,000 bytes"),
        ("MAX_HEADER_BYTES", 5000, lambda: raw_tar(*[pax((b"x", b"c" * 1000))] * 9, raw_header("w")), "take more"),
    ],
)  # fmt: skip
def test_limits(ground, monkeypatch: pytest.MonkeyPatch, limit, value, make, message) -> None:
    monkeypatch.setattr(limits, limit, value)
    data = make()
    refusal = attempt(ground, data, message)
    assert refusal is not None
    assert message in refusal
    if limit == "FREE_BYTES" and "trust" in refusal:
        ground.import_archive(io.BytesIO(data), trust=True, durability="relaxed", materialize=False)
        ground.delete("evil:1")
        ground.gc()


BOMB = """
import io, os, resource, sys
import zstandard
import casstore
from casstore.archive import limits
from tests.store.test_hostile_archives import raw_header, tar
home = sys.argv[1]
limits.FREE_BYTES = int(sys.argv[2])

class Zeros(io.RawIOBase):
    # Two terabytes of nothing in one file, in as many frames as it takes.
    def __init__(self):
        self.pending = zstandard.compress(tar(end=b"") + raw_header("w", size=b"\\x80" + (2 << 40).to_bytes(11, "big")))
        self.frame = zstandard.compress(bytes(64 << 20))
    def readable(self):
        return True
    def read(self, size=-1):
        while len(self.pending) < size:
            self.pending += self.frame
        data, self.pending = self.pending[:size], self.pending[size:]
        return data

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = casstore.Store(home, auto_gc=False)
try:
    store.import_archive(Zeros())
except casstore.UnsafeArchive as error:
    print(error)
else:
    raise SystemExit("it went through")
assert os.listdir(f"{home}/sessions") == []
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(more >> 10, "MiB more")
assert more < 150 << 10
"""


def test_a_real_bomb(home: Path) -> None:
    """2 TiB, of which it may write what is free to all, here mostly less: in little memory, and nothing stays."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = script(BOMB, home, limits.FREE_BYTES if EVERY else 64 << 20, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "expands to" in result.stdout
    print(result.stdout)


@pytest.mark.parametrize("name", ["tar", "xz", "zip"])
def test_cut_and_flipped_anywhere(ground, name) -> None:
    """Refused or harmless, wherever it is cut, whichever byte is another."""
    sound = {
        "tar": tar(member("w", b"content"), member("d/v", b"more"), link("l", "w")),
        "xz": lzma.compress(tar(member("w", b"content"), member("d/v", b"more"), link("l", "w"))),
        "zip": zipped(("w", b"content"), ("d/v", b"more")),
    }[name]
    generator = random.Random(1)
    places = range(len(sound)) if EVERY else generator.sample(range(len(sound)), 25)
    outcomes = {"refused": 0, "harmless": 0}
    for at in places:
        bits = 1 << generator.randrange(8)
        for data in (sound[:at], sound[:at] + bytes([sound[at] ^ bits]) + sound[at + 1 :]):
            before = everything(ground)
            try:
                (imported,) = ground.import_archive(io.BytesIO(data), durability="relaxed", materialize=False)
            except REFUSALS as error:
                assert str(error)
                outcomes["refused"] += 1
                assert everything(ground) == before
            else:
                outcomes["harmless"] += 1
                ground.delete(imported.model.tag)
                ground.gc()
            assert left_in_sessions(ground) == []
            assert ground.tags() == ["kept:1"]
    print(name, outcomes)


def test_folders(ground, tmp_path: Path) -> None:
    """A directory with a descriptor is read by the same rules; what it leads to is taken as in a save."""
    root = plant(tmp_path / "folder", {"w": b"w"})
    for text, message in [
        (f"metadata: !!python/object/apply:os.mkdir ['{Bomb.trace}']\n", "never made"), (LAUGHS, "values"),
    ]:  # fmt: skip
        (root / "model.yaml").write_text(DESCRIPTOR.decode() + text)
        with pytest.raises(REFUSALS, match=message):
            ground.import_archive(root)
    (root / "model.yaml").write_bytes(DESCRIPTOR)
    os.mkfifo(root / "pipe")
    with pytest.raises(REFUSALS, match="named pipe"):
        ground.import_archive(root)
    (root / "pipe").unlink()
    (root / "loop").symlink_to(".")
    with pytest.raises(REFUSALS, match="contains it"):
        ground.import_archive(root)
    (root / "model.yaml").unlink()
    (root / "model.yaml").symlink_to("/dev/zero")
    (root / "loop").unlink()
    with pytest.raises(REFUSALS):
        ground.import_archive(root)
    assert ground.tags() == ["kept:1"]
    assert not Path(Bomb.trace).exists()
    assert left_in_sessions(ground) == []
