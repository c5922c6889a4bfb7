"""Aliases in BentoML's calls."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from casstore import models


@pytest.fixture
def filled(store: casstore.Store) -> casstore.Store:
    for tag in ("tiny:a", "tiny:b"):
        with models.create(tag, _model_store=store) as model:
            Path(model.path, "w").write_text(tag)
    store.set_alias("tiny@prod", "tiny:a")
    store.set_alias("tiny@prod", "tiny:b")
    return store


def test_an_alias_is_taken_for_a_tag(filled, tmp_path: Path) -> None:
    assert str(models.get("tiny@prod").tag) == "tiny:b"
    assert str(models.get("tiny@prod~1").tag) == "tiny:a"
    assert str(models.get("live", model_aliases={"live": "tiny@prod"}).tag) == "tiny:b"
    assert [str(model.tag) for model in models.list("tiny@prod")] == ["tiny:b"]
    assert models.export_model("tiny@prod", str(tmp_path / "out.tar"))
    with pytest.raises(casstore.TagNotFound, match="there is no alias tiny@none"):
        models.get("tiny@none")


def test_it_is_no_tag_to_delete_by(filled) -> None:
    with pytest.raises(casstore.InvalidTag, match="now tiny:b"):
        models.delete("tiny@prod")
    with pytest.raises(casstore.VersionAliased, match="tiny@prod"):
        models.delete("tiny:b")
    assert len(models.list("tiny")) == 2
