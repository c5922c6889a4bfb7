"""Tensors without files as PyTorch has them, beside what torch.load and safetensors give of the same files."""

from __future__ import annotations

import os
import pickle
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest

import casstore
from tests.kit import script
from tests.pages import ROOT, blocks

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.filterwarnings("default")

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "uint16", "uint32", "uint64", "complex128"),
)


class Unheard:
    """A class that no reader of the file may need."""


def tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    made = {
        name: torch.randint(0, 100, (8, 48), generator=generator, dtype=torch.uint8).view(getattr(torch, name))
        for name in DTYPES
        if name != "bool"
    }
    large = torch.randn(3000, 1000, generator=generator)
    return {
        **made, "bool": torch.tensor([True, False]), "scalar": torch.tensor(1.5), "empty": torch.empty(0, 3),
        "large": large,
    }  # fmt: skip


def same(found: Any, want: Any) -> bool:
    if (found.dtype, found.shape) != (want.dtype, want.shape):
        return False
    if not want.numel():
        return True
    return torch.equal(found.contiguous().view(-1).view(torch.uint8), want.contiguous().view(-1).view(torch.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("torch")
    source = place / "source"
    source.mkdir()
    plain = tensors()
    base = plain["large"]
    shared = {**plain, "tied": base, "turned": base.T, "part": base[10:20, 5:7], "wide": base[:1].expand(4, 1000)}
    with casstore.Store(place / "home", auto_gc=False) as store:
        for step in range(2):
            base += step * 1e-3
            torch.save({"model": shared, "other": [Unheard(), torch.nn.Linear(2, 2)]}, source / "model.pt")
            kept = {name: each for name, each in plain.items() if name != "complex128"}
            safetensors_torch.save_file(
                kept, source / "model.safetensors", metadata={"format": "pt", "step": str(step)}
            )
            store.save(f"m:{step}", source)
        store.gc(evict_all=True)
        yield store.get("m:1")


def test_a_state_dict_is_what_torch_load_gives(model: Any, tmp_path: Path) -> None:
    want = torch.load(model.open("model.pt"), weights_only=False)
    flat = {f"model.{name}": each for name, each in want["model"].items()}
    linear = want["other"][1].state_dict()
    flat |= {f"other.1.{name}": each for name, each in linear.items()}
    found = model.state_dict(file="model.pt")
    assert found.keys() == flat.keys()
    for name, each in flat.items():
        assert same(found[name], each), name
        assert same(model.tensor(name, "torch", file="model.pt"), each), name
        assert found[name].stride() == each.stride() or not each.numel()
    assert all(each._base is None and not each.requires_grad for each in found.values())
    found["model.large"][0, 0] = 77
    assert found["model.tied"][0, 0] == found["model.turned"][0, 0] == found["model.wide"][3, 0] == 77
    torch.save(found["model.int8"], tmp_path / "one.pt")
    assert (tmp_path / "one.pt").stat().st_size < 10_000  # memory of its own


def test_a_state_dict_of_safetensors(model: Any) -> None:
    want = safetensors_torch.load_file(Path(model.path, "model.safetensors"))
    found = model.state_dict()
    assert found.keys() == want.keys()
    assert all(same(found[name], each) for name, each in want.items())
    assert model.state_dict("f*").keys() == {name for name in want if name.startswith("f")}
    rows = model.tensor("large", "torch", rows=slice(2000, 2002))
    assert same(rows, want["large"][2000:2002])


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    written = {
        "legacy.pt": lambda path: torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False),
        "plain.pt": lambda path: path.write_bytes(pickle.dumps({"w": torch.ones(2)})),
        "sparse.pt": lambda path: torch.save({"emb": torch.eye(3).to_sparse(), "w": torch.ones(2)}, path),
        "meta.pt": lambda path: torch.save({"far": torch.empty(3, device="meta"), "w": torch.ones(2)}, path),
        "storage.pt": lambda path: torch.save({"s": torch.ones(4).untyped_storage(), "w": torch.ones(2)}, path),
    }
    with casstore.Store(tmp_path / "home", auto_gc=False) as store:
        for name, write in written.items():
            write(tmp_path / name)
            model = store.save(name.replace(".", "-"), tmp_path / name)
            with pytest.raises(ValueError, match=rf"{name} of .*; (torch|pickle)\.load\(model\.open\('{name}'\)\)"):
                model.state_dict()
            read = pickle.load if name == "plain.pt" else partial(torch.load, weights_only=False)
            assert "w" in read(model.open(name))
            if name not in ("legacy.pt", "plain.pt"):
                assert model.state_dict("w")["w"].tolist() == [1, 1]


def test_what_a_training_leaves_beside_its_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    generator = {"python": random.getstate(), "numpy": numpy.random.get_state(), "cpu": torch.random.get_rng_state()}
    source = tmp_path / "source"
    source.mkdir()
    torch.save(optimizer.state_dict(), source / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(), source / "scheduler.pt")
    torch.save(generator, source / "rng_state.pth")
    torch.save(transformers.TrainingArguments(output_dir="x"), source / "training_args.bin")
    (source / "plain.bin").write_bytes(pickle.dumps(transformers.TrainingArguments(output_dir="x")))
    torch.save(net.state_dict(), source / "pytorch_model.bin")
    with casstore.Store(tmp_path / "home", auto_gc=False) as store:
        assert {"weight", "bias", "cpu", "state.0.exp_avg"} <= store.save("m:1", source).state_dict().keys()
        safetensors_torch.save_file(net.state_dict(), source / "model.safetensors")
        assert store.save("m:2", source).state_dict().keys() == {"weight", "bias"}


def test_devices(model: Any) -> None:
    found = model.state_dict(device="meta", file="model.pt")
    assert {each.device.type for each in found.values()} == {"meta"}
    assert found["model.turned"].stride() == (1, 1000)
    assert {each.device.type for each in model.state_dict(device=torch.device("cpu")).values()} == {"cpu"}
    with torch.device("meta"):  # as around the making of a model
        assert same(model.tensor("scalar", "torch", file="model.safetensors"), torch.tensor(1.5, device="cpu"))
    with pytest.raises(RuntimeError):
        model.state_dict(device="nonsense")


def test_numbers_that_numpy_has_through_ml_dtypes(model: Any) -> None:
    pytest.importorskip("ml_dtypes")
    want = tensors()
    for name in DTYPES:
        found = model.tensor(f"model.{name}", file="model.pt")
        assert found.dtype.name.replace("bool_", "bool") == name
        assert found.tobytes() == bytes(want[name].contiguous().view(-1).view(torch.uint8).tolist()), name


def test_safe_open_beside_that_of_safetensors(model: Any) -> None:
    from safetensors import safe_open as theirs

    from casstore.safetensors import safe_open as ours

    with model.as_file("model.safetensors") as path:
        with theirs(path, "pt") as want, ours(model, "pt", device="cpu") as found:
            assert (found.keys(), found.offset_keys()) == (want.keys(), want.offset_keys())
            assert found.metadata() == want.metadata()
            for name in found.keys():  # noqa: SIM118 - neither is a dict
                assert same(found.get_tensor(name), want.get_tensor(name))
                assert found.get_slice(name).get_shape() == want.get_slice(name).get_shape()
                assert found.get_slice(name).get_dtype() == want.get_slice(name).get_dtype()
            for part in ((slice(10, 20), slice(2, 9)), 5, (..., 3), slice(0, 3000, 7)):
                assert same(found.get_slice("large")[part], want.get_slice("large")[part])
        assert same(
            safetensors_torch.load_file(path)["large"], model.tensor("large", "torch", file="model.safetensors")
        )
    with model.as_file("model.pt") as path:
        mapped = torch.load(path, mmap=True, weights_only=False)["model"]
    assert same(mapped["large"], model.tensor("model.large", "torch"))


def test_the_programs_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/tensors.md").read_text(encoding="utf-8")
    said = ""
    for program in blocks(page, "python"):
        if program.title is not None:
            (tmp_path / program.title).write_text(program.text)
            said += script(program.text, env={**os.environ, "CASSTORE_HOME": str(tmp_path / "home")}).stdout
    assert said.splitlines() == ["{'weight': (2, 3), 'bias': (2,)}", "torch.float32", "table (10, 5)"]
