"""push and pull of BentoML over casstore go through the store's default remote."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore


def test_push_and_pull_go_through_the_default_remote(installed, home: Path, tmp_path: Path) -> None:
    import bentoml
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml.exceptions import BentoMLException, NotFound

    with bentoml.models.create("m:v1") as model:
        Path(model.path_of("w.bin")).write_bytes(b"weights")
    with casstore.Store(home) as store:
        store.add_remote("origin", str(tmp_path / "remote"))
    for _ in range(2):
        bentoml.models.push("m:v1", force=True)
    with pytest.raises(NotFound):
        bentoml.models.push("m:v2")
    with pytest.raises(NotFound):
        bentoml.models.pull("other")
    bentoml.models.delete("m:v1")
    for tag in ("m", "m:v1", "m:latest"):
        pulled = bentoml.models.pull(tag)
        assert Path(pulled.path_of("w.bin")).read_bytes() == b"weights"
    assert [str(each.tag) for each in BentoMLContainer.model_store.get().list()] == ["m:v1"]
    with casstore.Store(tmp_path / "other") as store:
        (tmp_path / "w").write_bytes(b"other weights")
        store.save("m:v1", tmp_path / "w")
        bentoml.models.delete("m:v1")
        with store.add_remote("origin", str(tmp_path / "remote")) as remote:
            remote.delete("m:v1")
            remote.push("m:v1")
    with bentoml.models.create("m:v1") as model:
        Path(model.path_of("w.bin")).write_bytes(b"weights")
    with pytest.raises(BentoMLException, match="never change"):
        bentoml.models.push("m:v1")


def test_without_a_remote_it_is_bentocloud_as_before(installed) -> None:
    import bentoml

    with bentoml.models.create("m:v1") as model:
        Path(model.path_of("w.bin")).write_bytes(b"weights")
    with pytest.raises(Exception, match=r"(?i)bentocloud|yatai|cloud|token|login"):
        bentoml.models.push("m:v1")
