"""Versions that torch.distributed.checkpoint has written: tensors by the names that its `.metadata` gives them."""

from __future__ import annotations

import numpy as np
import pytest

import casstore
from tests.kit import Save, noise, plant
from tests.torch_files import (
    Stored,
    View,
    archive,
    checkpoint_of,
    distributed,
    instance,
    mapping,
    one_tensor,
    state_dict,
    tensor,
)

NUMBERS = np.arange(24, dtype="<f4")


def rows(start: int) -> bytes:
    """The archive of two rows of four numbers."""
    return one_tensor(View("0", "F32", (2, 4), (4, 1)), NUMBERS[start : start + 8].tobytes())


def files(start: int = 0) -> dict[str, bytes]:
    turned = one_tensor(View("0", "F32", (3, 4), (1, 3)), NUMBERS[:12].tobytes())
    part_of_storage = one_tensor(View("0", "BF16", (3,), (1,), 2), bytes(range(12)))
    of_objects = archive(
        b"\x80\x02" + mapping({"t": tensor(View("0", "F32", (2,), (1,)), 8)}) + b".", {"0": NUMBERS[:2].tobytes()}
    )
    empty = one_tensor(View("0", "F32", (0, 3), (3, 1)), b"")
    whole = checkpoint_of(
        {
            "__0_0.distcp": [
                ("step", None, archive(b"\x80\x02K\x07.", {})),
                ("layer.w", (0, 0), rows(start)),
                ("empty", (0, 0), empty),
                ("optim.state", None, of_objects),
                ("turned", (0, 0), turned),
            ],
            "__1_0.distcp": [
                ("layer.w", (2, 0), rows(8)),
                ("half", (0,), part_of_storage),
            ],
            "__2_0.distcp": [("far", (6, 0), rows(16))],
        }
    )
    return {f"sub/{path}": content for path, content in whole.items()}


def test_they_go_by_their_names(save: Save) -> None:
    model = save("run:1", files())
    assert [(each.file, each.name, each.dtype, each.shape, each.size) for each in model.tensors()] == [
        ("sub/__0_0.distcp", "layer.w[0:2, 0:4]", "F32", (2, 4), 32),
        ("sub/__0_0.distcp", "empty", "F32", (0, 3), 0),
        ("sub/__0_0.distcp", "turned", "F32", (3, 4), 48),
        ("sub/__0_0.distcp", "3/data/0", "F32", (2,), 8),
        ("sub/__1_0.distcp", "layer.w[2:4, 0:4]", "F32", (2, 4), 32),
        ("sub/__1_0.distcp", "half", "BF16", (3,), 6),
        ("sub/__2_0.distcp", "far[6:8, 0:4]", "F32", (2, 4), 32),
    ]
    assert np.array_equal(model.tensor("turned"), NUMBERS[:12].reshape(4, 3).T)
    found = model.state_dict("layer.*", framework="numpy")
    assert np.array_equal(np.concatenate(list(found.values())), NUMBERS[:16].reshape(4, 4))
    assert model.state_dict("empty", framework="numpy")["empty"].shape == (0, 3)


def test_a_difference_is_told_by_them(store: casstore.Store, save: Save) -> None:
    save("run:1", files())
    save("run:2", files(4))
    told = store.diff("run:1", "run:2")
    assert [each.name for each in told.tensors if each.change.value != "same"] == ["layer.w[0:2, 0:4]"]
    assert len(told.tensors) == 7


def test_remotes_know_them_too(store: casstore.Store, save: Save, tmp_path) -> None:
    save("run:1", files())
    store.add_remote("origin", str(tmp_path / "remote"))
    store.remote("origin").push()
    there = store.remote("origin").get("run:1")
    assert there.tensors() == store.get("run:1").tensors()
    assert np.array_equal(there.tensor("turned"), NUMBERS[:12].reshape(4, 3).T)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        b"",
        b"\x80\x02}.",
        distributed([]),
        distributed([Stored("w", "w.distcp", 1, 900)]),
        distributed([Stored("w", "w.distcp", -5, 1 << 30), Stored("v", "w.distcp", 0, 1 << 30)]),
        distributed([Stored("w", "w.distcp", 1, 2 * len(rows(0)) - 1)]),
        distributed([Stored("w", "w.distcp", 0, 2 * len(rows(0)))]),
        distributed([Stored("w", "w.distcp", 0, len(rows(0)) + 5)]),
        distributed([Stored("w", "../w.distcp", 0, len(rows(0)))]),
        distributed([Stored("w", "w.distcp", 0, len(rows(0)), transforms=b"]")]),
    ],
)
def test_without_the_right_metadata_they_go_by_their_place(
    store: casstore.Store, tmp_path, metadata: bytes | None
) -> None:
    beside = {} if metadata is None else {".metadata": metadata}
    model = store.save("run:1", plant(tmp_path / "run", {"w.distcp": rows(0) + rows(8), **beside}))
    assert [(each.name, each.shape) for each in model.tensors()] == [("0/data/0", (8,)), ("1/data/0", (8,))]
    assert list(model.state_dict(framework="numpy")) == ["0/data/0", "1/data/0"]


def test_a_part_is_not_taken_for_the_whole(store: casstore.Store, tmp_path) -> None:
    """Where the other part is compressed, or gone."""
    of_two = instance(b"m\na", {"chunks": b"](K\x01K\x02e"})
    said = distributed([Stored("w", "w.distcp", 0, len(rows(0)), (0, 0))], mapping({"w": of_two, "step": b"N"}))
    model = store.save("run:1", plant(tmp_path / "run", {"w.distcp": rows(0), ".metadata": said}))
    assert [each.name for each in model.tensors()] == ["w[0:2, 0:4]"]


def test_a_damaged_metadata_takes_no_other_files_tensors_away(store: casstore.Store, tmp_path) -> None:
    weights = state_dict({"w": View("0", "F32", (2, 4), (4, 1))}, {"0": NUMBERS[:8].tobytes()})
    said = distributed([Stored("x", "a.pt", 0, len(weights))]) + noise(50_000)
    model = store.save("run:1", plant(tmp_path / "run", {"a.pt": weights, ".metadata": said}), materialize=False)
    damage(store, said[-20_000:-19_990])
    with pytest.raises(casstore.IntegrityError):
        model.open(".metadata").read()
    assert [each.name for each in store.get("run:1").tensors()] == ["w"]
    assert np.array_equal(store.get("run:1").tensor("w"), NUMBERS[:8].reshape(2, 4))


def damage(store: casstore.Store, stored: bytes) -> None:
    """Alter these bytes where they stand in a pack."""
    (pack,) = [path for path in (store.home / "objects/packs").iterdir() if stored in path.read_bytes()]
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes().replace(stored, bytes(len(stored))))
