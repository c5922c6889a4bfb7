"""casstore.integrations.lightning beside the real Lightning, as docs/how-to/lightning.md uses it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import casstore

pytest.importorskip("fsspec", reason="needs fsspec")
pl: Any = pytest.importorskip("lightning.pytorch", reason="needs Lightning")
torch: Any = pytest.importorskip("torch", reason="needs PyTorch")
from casstore.integrations.lightning import CasstoreCheckpoint  # noqa: E402

PAGE = Path(__file__).parents[2].joinpath("docs/how-to/lightning.md").read_text(encoding="utf-8")
# It warns of small data, few workers, and what PyTorch has renamed.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: casstore.Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ((name, text),) = re.findall(r'^```python title="(.*?)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    page = runpy.run_path(name)
    assert capsys.readouterr().out.splitlines() == [
        "line:step-2 0 ['loss']",
        "line:step-4 1 ['loss']",
        "line:step-6 2 ['loss']",
        "best: line:step-6",
    ]
    # Two files are left of three checkpoints, and three versions.
    assert len(list(Path("checkpoints").iterdir())) <= 3
    # It was gone on with, not begun anew.
    assert page["again"].global_step == 6
    last = store.get("line@last")
    assert (str(last.tag), [file.path for file in last.files]) == ("line:step-6", ["last.ckpt"])
    assert not (store.home / "models/line/step-2").exists()
    line = page["Line"].load_from_checkpoint("casstore://line:step-2/last.ckpt")
    losses = [model.metadata["metrics"]["loss"] for model in store.list("line")]
    assert losses == sorted(losses)  # the newest comes first
    assert line.layer.weight.shape == (1, 1)

    # What is saved by another run of that name, and is not the best of all.
    store.protect_alias("line@best")
    callback = CasstoreCheckpoint("line", store=store, about={"labels": {"run": "2"}}, monitor="loss", dirpath="other")
    fitted = pl.Trainer(
        max_epochs=1, callbacks=[callback], accelerator="cpu", devices=1, logger=False, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    fitted.fit(page["Line"](), page["data"])
    newest = store.get("line@last")
    assert newest.tag.version not in ("step-2", "step-4", "step-6")
    assert (dict(newest.labels), newest.metadata["step"]) == ({"run": "2"}, 2)
    assert str(store.get("line@best").tag) == "line:step-6"
    # A protected alias stays where it is, and ends no training.
    callback._move(store, "best", str(newest.tag))
    assert str(store.get("line@best").tag) == "line:step-6"
    # Another training saves the step after this one has looked, before or after the draft is made.
    add = casstore.Draft.add

    def be_second(draft: casstore.Draft, *arguments: Any, **said: Any) -> None:
        if "step-21" in draft.tag.version:
            store.save("line:step-21", tmp_path / name)
        add(draft, *arguments, **said)

    store.save("line:step-20", tmp_path / name)
    with monkeypatch.context() as patched:
        patched.setattr(store, "exists", lambda _: False)
        patched.setattr(casstore.Draft, "add", be_second)
        for step in (20, 21):
            now = SimpleNamespace(global_step=step, current_epoch=1, callback_metrics={"loss": 9.0})
            callback._save(now, name)
            saved = store.get("line@last")
            assert saved.metadata == {"step": step, "epoch": 1, "metrics": {"loss": 9.0}}
            assert [file.path for file in saved.files] == ["last.ckpt"]
            assert not str(saved.tag.version).startswith("step-")
    assert not store.drafts()
    # A training that was killed before it could move them.
    store.unprotect_alias("line@best")
    about = {"step": 8, "epoch": 3, "metrics": {"loss": -1.0}}
    store.save("line:step-8", tmp_path / name, metadata=about)
    callback.on_train_start(fitted, page["Line"]())
    assert [str(store.get(f"line@{alias}").tag) for alias in ("best", "last")] == ["line:step-8"] * 2
    with pytest.raises(casstore.CasstoreError, match="needs a dirpath on this machine"):
        callback._save(fitted, "memory://x.ckpt")
