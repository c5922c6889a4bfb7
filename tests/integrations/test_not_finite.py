"""BentoML reads metadata that is not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import casstore

pytest.importorskip("bentoml", minversion="1.4")


def test_bentoml_reads_nan_and_infinities(tmp_path: Path) -> None:
    from bentoml._internal.models.model import ModelStore

    with casstore.Store(tmp_path / "store") as store:
        with store.create("bert:v1", metadata={"loss": [math.nan, -math.inf], "none": None, "word": "nan"}):
            pass
        metadata = ModelStore(store.home / "models").get("bert:v1").info.metadata
    assert repr(metadata) == repr({"loss": [math.nan, -math.inf], "word": "nan"})
