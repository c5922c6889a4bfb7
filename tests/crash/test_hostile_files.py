"""Files that somebody made to do harm, or that chance did: bounded, never wrong, and nothing in them is ever run.

CASSTORE_TEST_EVERY=1 tries many more; `tests/crash/fuzz.py` has a fuzzer look for what none of them meets.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.crash.hostile import PARSERS, try_one
from tests.kit import EVERY, script

pytestmark = pytest.mark.crash

NUMBERS = [0, 1, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 60, 1 << 63, (1 << 64) - 1]


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """One of the seeds after a few changes of the kinds that parsers stumble over."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["byte", "cut", "insert", "delete", "number", "repeat"]))
        if how == "byte":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif how == "delete":
            del data[at : at + draw(st.integers(1, 16))]
        elif how == "number":
            width = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from(NUMBERS)) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, draw(st.sampled_from(["little", "big"])))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 3))
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
def test_mutated(name) -> None:
    parser = PARSERS[name]
    outcomes: Counter[str] = Counter()

    @settings(max_examples=10_000 if EVERY else 150, suppress_health_check=list(HealthCheck), database=None)
    @given(mutated(parser.seeds) | st.binary(max_size=300))
    def attempt(data: bytes) -> None:
        outcomes["accepted" if try_one(parser, data) else "refused"] += 1

    for seed in parser.seeds:
        assert try_one(parser, seed)
    attempt()
    print(f"hostile files, {name}: {outcomes.total()} cases, {dict(outcomes)}")


class _Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


SESSION = """
import pathlib, sys
import casstore, casstore.cli.main
home, source = sys.argv[1:]
reached = []
watched = {"pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"}
def hook(event, args):
    is_of_model = event in ("import", "compile", "exec") and (home in repr(args) or source in repr(args))
    if event in watched or is_of_model:
        reached.append((event, args))
sys.addaudithook(hook)
with casstore.Store(home, auto_gc=False) as store:
    store.save("evil:1", source)
    store.save("evil:2", source, materialize=False)
    for tag in ("evil:1", "evil:2"):
        model = store.get(tag)
        assert model.path and [model.open(file.path).read() for file in model.files]
    assert store.verify().is_sound
    store.gc(evict_all=True)
    pathlib.Path(store.get("evil:1").path, "model.py").unlink()
    store.repair([source])
    store.stats(), store.list(), store.pin("evil:1")
casstore.Store.rebuild_catalog(home)
for verb in (["list"], ["show", "evil:1"], ["path", "evil:2"], ["verify"], ["gc"]):
    sys.argv = ["casstore", *verb, "--home", home]
    try:
        casstore.cli.main.main()
    except SystemExit as end:
        assert not end.code, verb
assert reached == [], [event for event, _ in reached]
with casstore.Store(home, auto_gc=False) as store:
    store.get("evil:1").custom_objects
assert [event for event, _ in reached] == ["pickle.find_class"]
print("done")
"""


def test_nothing_in_a_model_is_run_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Saved, opened, verified, collected, repaired and rebuilt, in Python and on the command line."""
    source, trace = tmp_path / "out", tmp_path / "it was run"
    source.mkdir()
    bomb = pickle.dumps(_Bomb(trace))
    code = f"import os; os.mkdir({str(trace)!r})"
    (source / "custom_objects.pkl").write_bytes(pickle.dumps({"bomb": _Bomb(trace)}))
    for name in ("model.pt", "model.pkl", "weights.joblib", "tokenizer.bin"):
        (source / name).write_bytes(bomb)
    for name in ("model.py", "__init__.py", "sitecustomize.py", "conftest.py", "setup.py"):
        (source / name).write_text(code)
    (source / "evil.pth").write_text(code)
    evil = f"!!python/object/apply:os.mkdir ['{trace}']"
    (source / "model.yaml").write_text(
        f"metadata: {evil}\nname: n\nversion: v\ncreation_time: {evil}\nmodule: m\nlabels: {{}}\ncontext: {{}}\n"
    )
    with zipfile.ZipFile(source / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", bomb)
        archive.writestr("archive/data/0", bytes(100))
    descr = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    with zipfile.ZipFile(source / "arrays.npz", "w") as archive:
        archive.writestr("a.npy", descr.ljust(128) + bomb)
    header = json.dumps({"__metadata__": {"format": code}}).encode()
    (source / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    result = script(SESSION, tmp_path / "store", source)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")
    assert trace.exists(), "custom_objects are unpickled when they are asked for"


def test_a_pickle_with_an_escape_that_python_does_not_have() -> None:
    """Of which Python warns, and here a warning is an error."""
    name = b"X\x07\x00\x00\x00storagec\\\x00torch\nFloatStorage\nX\x01\x00\x00\x000"
    name += b"X\x03\x00\x00\x00cpuJ\x01\x00\x00\x00tQe."
    assert try_one(PARSERS["pickles of PyTorch"], b"\x80\x02]((" + name)
