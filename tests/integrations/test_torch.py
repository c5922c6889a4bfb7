"""casstore.integrations.torch beside the real PyTorch."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import casstore

torch: Any = pytest.importorskip("torch", reason="needs PyTorch")
dcp: Any = pytest.importorskip("torch.distributed.checkpoint", reason="needs PyTorch")
CheckpointException = pytest.importorskip("torch.distributed.checkpoint.api").CheckpointException
from casstore.integrations.torch import CasstoreWriter, async_save, load, save  # noqa: E402

PAGE = Path(__file__).parents[2].joinpath("docs/how-to/pytorch.md").read_text(encoding="utf-8")
# It warns of each checkpoint that is made without a process group, and of what it calls itself.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def state(number: float) -> dict[str, Any]:
    return {"w": torch.full((64, 32), number), "b": torch.full((5,), number, dtype=torch.bfloat16), "step": int(number)}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one
    )


def loaded(model: casstore.Model) -> dict[str, Any]:
    found = state(0)
    dcp.load(found, storage_reader=dcp.FileSystemReader(model.path), no_dist=True)
    return found


def test_save_and_load(store: casstore.Store) -> None:
    model = save(state(1), "run:v1", store=store, metadata={"loss": 0.5})
    assert (str(model.tag), dict(model.metadata), [file.path for file in model.files]) == (
        "run:v1", {"loss": 0.5}, ["model.pt"],
    )  # fmt: skip
    assert equal(load("run:v1", store=store), state(1))
    save(state(2), "run:v2", store=store, file="sub/w.pt")
    store.set_alias("run@prod", "run:v2")
    assert equal(load("run@prod", store=store, file="sub/w.pt", map_location="cpu", mmap=True), state(2))
    async_save(state(3), "run:v3", store=store).result()
    assert equal(load("run", store=store), state(3))


def test_load_makes_no_directory(store: casstore.Store) -> None:
    save(state(1), "run:v1", store=store, materialize=False)
    assert equal(load("run:v1", store=store), state(1))
    assert not (store.home / "models/run/v1").exists()


def test_load_runs_no_code(store: casstore.Store) -> None:
    save({"path": Path("x")}, "run:v1", store=store)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        load("run:v1", store=store)
    assert load("run:v1", store=store, weights_only=False) == {"path": Path("x")}


def test_the_store_is_that_of_the_environment(home: Path, store: casstore.Store) -> None:
    save([1], "run:v1")
    assert (load("run"), store.home) == ([1], home)


def test_what_cannot_be_saved_leaves_nothing(store: casstore.Store) -> None:
    with pytest.raises(AttributeError, match="lambda"):
        save(lambda: 1, "run:v1", store=store)
    with pytest.raises(FileNotFoundError):
        load(str(save([1], "run:v2", store=store).tag), store=store, file="other.pt")
    assert (store.tags(), list(store.drafts())) == (["run:v2"], [])


def test_a_file_of_another_name_is_named(store: casstore.Store, tmp_path: Path) -> None:
    torch.save([1], tmp_path / "net.pt")
    store.save("run:v1", tmp_path / "net.pt")
    for mmap in (False, True):
        with pytest.raises(FileNotFoundError, match=r"run:v1 has no file 'model\.pt'; say which.*: file='net\.pt'"):
            load("run", store=store, mmap=mmap)


def test_a_distributed_checkpoint(store: casstore.Store) -> None:
    writer = CasstoreWriter("run:step-1", store=store, about={"metadata": {"step": 1}})
    dcp.save(state(1), storage_writer=writer, no_dist=True)
    assert (str(writer.model.tag), dict(writer.model.metadata)) == ("run:step-1", {"step": 1})
    assert {file.path for file in writer.model.files} == {".metadata", "__0_0.distcp"}
    assert equal(loaded(store.get("run:step-1")), state(1))
    writer.about["metadata"] = {"step": 2}
    dcp.save(state(2), checkpoint_id="run:step-2", storage_writer=writer, no_dist=True)
    assert equal(loaded(writer.model), state(2))
    assert dict(store.get("run").metadata) == {"step": 2}
    base = store.get("run").base
    assert base is not None
    assert str(base.tag) == "run:step-1"
    # Which tensor changed is told, also of what is in one file.
    assert [each.name for each in store.diff("run:step-1", "run:step-2").tensors] == ["b", "w"]
    weights = store.get("run:step-2").state_dict()
    assert equal(weights, {name: state(2)[name] for name in ("w", "b")})
    found = dcp.FileSystemReader(store.get("run").path).read_metadata().storage_meta
    assert found.checkpoint_id == "run:step-2"


def test_a_checkpoint_is_read_by_its_url(store: casstore.Store) -> None:
    pytest.importorskip("fsspec")
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    writer = CasstoreWriter("run:step-1", store=store, about={"materialize": False})
    dcp.save(state(1), storage_writer=writer, no_dist=True)
    found = state(0)
    dcp.load(found, storage_reader=FsspecReader(writer.model.url), no_dist=True)
    assert equal(found, state(1))
    assert not (store.home / "models/run/step-1").exists()


def test_a_checkpoint_that_fails_is_no_version(store: casstore.Store) -> None:
    writer = CasstoreWriter("run:step-1", store=store)
    with pytest.raises(CheckpointException, match="lambda"):
        dcp.save({**state(1), "x": lambda: 1}, storage_writer=writer, no_dist=True)
    assert (store.tags(), list(store.home.glob("models/.draft*"))) == ([], [])
    with pytest.raises(casstore.CasstoreError, match="has not saved run:step-1"):
        _ = writer.model
    dcp.save(state(1), storage_writer=writer, no_dist=True)
    assert (store.tags(), list(store.drafts())) == (["run:step-1"], [])


def test_a_tag_that_is_taken(store: casstore.Store) -> None:
    save([1], "run:v1", store=store)
    with pytest.raises(CheckpointException, match="TagExists"):
        dcp.save(state(1), storage_writer=CasstoreWriter("run:v1", store=store), no_dist=True)


def test_async_save_of_one_process(store: casstore.Store, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        for number in (1, 2):
            writer = CasstoreWriter(f"run:step-{number}", store=store)
            dcp.async_save(state(number), storage_writer=writer).result()
            assert equal(loaded(writer.model), state(number))
        with pytest.raises(ValueError, match="by all ranks together"):
            CasstoreWriter("run:v1", store=store).set_up_storage_writer(True, use_collectives=False)
    finally:
        torch.distributed.destroy_process_group()


def test_the_page_runs(tmp_path: Path) -> None:
    programs = dict(re.findall(r'^```python title="(.*?)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL))
    for program, text in programs.items():
        (tmp_path / program).write_text(text)
    line = f"import runpy\nfor name in {list(programs)}: runpy.run_path(name)"
    done = subprocess.run([sys.executable, "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["torch.Size([2, 4])", "run:step-100", "100"]


def _rank(rank: int, home: Path, meet: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    placements = [torch.distributed.tensor.Shard(0)]
    for number in (1, 2):
        local = torch.full((4, 3), 10.0 * number + rank)
        sharded = {"w": torch.distributed.tensor.DTensor.from_local(local, mesh, placements)}
        writer = CasstoreWriter("run", store=casstore.store_at(home))
        dcp.save(sharded, checkpoint_id=f"run:step-{number}", storage_writer=writer)
        assert str(writer.model.tag) == f"run:step-{number}"
    generated = CasstoreWriter("generated", store=casstore.store_at(home))
    dcp.save(sharded, storage_writer=generated)
    assert generated.model == casstore.store_at(home).get("generated")
    torch.distributed.destroy_process_group()


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


def _failing_rank(rank: int, home: Path, meet: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    writer = CasstoreWriter("run:v1", store=casstore.store_at(home))
    with pytest.raises(CheckpointException, match="cannot be pickled"):
        dcp.save({f"s{rank}": Unpicklable() if rank else 1}, storage_writer=writer)
    with pytest.raises(casstore.CasstoreError, match="has not saved run:v1"):
        _ = writer.model
    torch.distributed.destroy_process_group()


@pytest.mark.crash
def test_a_rank_that_fails_leaves_nothing(
    store: casstore.Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch.multiprocessing

    torch.multiprocessing.start_processes(_failing_rank, (store.home, tmp_path / "meet"), 2, start_method="fork")
    assert (store.tags(), list(store.drafts())) == ([], [])
    assert "neither committed nor discarded" not in capfd.readouterr().err
    store.gc()
    assert list((store.home / "sessions").iterdir()) == []


@pytest.mark.crash
def test_two_processes(store: casstore.Store, tmp_path: Path) -> None:
    import torch.distributed.tensor
    import torch.multiprocessing

    torch.multiprocessing.start_processes(_rank, (store.home, tmp_path / "meet"), 2, start_method="fork")
    for number in (1, 2):
        model = store.get(f"run:step-{number}")
        assert {file.path for file in model.files} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
        names = [("w[0:4, 0:3]", (4, 3)), ("w[4:8, 0:3]", (4, 3))]
        assert [(each.name, each.shape) for each in model.tensors()] == names
        found = {"w": torch.zeros(8, 3)}
        dcp.load(found, storage_reader=dcp.FileSystemReader(model.path), no_dist=True)
        assert found["w"][:, 0].tolist() == [10.0 * number] * 4 + [10.0 * number + 1] * 4
