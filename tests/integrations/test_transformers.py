"""The callback of Hugging Face's Trainer, in real trainings of a tiny model."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.integrations import hugging_face
from tests.kit import plant
from tests.pages import ROOT

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(each) is None for each in ("torch", "transformers", "accelerate")),
        reason="needs torch, transformers and accelerate",
    ),
    pytest.mark.filterwarnings("ignore"),  # what they say of each other
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def trainings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests.integrations import trainings
    return trainings


@pytest.mark.parametrize("background", [False, True])
def test_each_checkpoint_is_a_version(store: casstore.Store, tmp_path: Path, trainings: Any, background: bool) -> None:
    callback = trainings.CasstoreCallback("sst2", store=store, labels={"task": "sst2"}, background=background)
    training = trainings.trainer(
        tmp_path / "out", callback, load_best_model_at_end=True, metric_for_best_model="loss", save_total_limit=1
    )
    training.train()
    models = store.list("sst2")
    assert [str(each.tag) for each in models] == ["sst2:step-6", "sst2:step-4", "sst2:step-2"]
    last = store.get("sst2@last")
    assert (last.metadata["step"], last.metadata["epoch"], last.labels) == (6, 1.0, {"task": "sst2"})
    assert {"eval_loss", "loss", "grad_norm"} <= set(last.metadata["metrics"])
    assert last.metadata["trainer"]["max_steps"] == 6
    assert last.base is not None
    assert str(last.base.tag) == "sst2:step-4"
    best = min(models, key=lambda each: each.metadata["metrics"]["eval_loss"])
    assert best.metadata["step"] == training.state.best_global_step
    assert store.get("sst2@best").tag == best.tag
    # Nothing is different in what is saved again: so trains who resumes from the step before.
    path = trainings.checkpoint_path("sst2:step-4", store=store)
    again = trainings.trainer(
        tmp_path / "out", callback, load_best_model_at_end=True, metric_for_best_model="loss", save_total_limit=1
    )
    again.train(resume_from_checkpoint=path)
    assert again.state.global_step == 6
    assert {each.metadata["step"] for each in store.list("sst2")} == {2, 4, 6}
    loaded = trainings.BertForSequenceClassification.from_pretrained(
        trainings.checkpoint_path("sst2@last", store=store)
    )
    for name, values in again.model.state_dict().items():
        assert values.shape == loaded.state_dict()[name].shape
    assert store.verify().is_sound


def test_a_step_that_is_saved_again(store: casstore.Store, tmp_path: Path, trainings: Any) -> None:
    callback = trainings.CasstoreCallback("again", store=store)
    training = trainings.trainer(tmp_path / "out", callback, max_steps=2)
    training.train()
    callback.on_save(training.args, training.state, training.control)
    assert store.tags() == ["again:step-2"]
    (tmp_path / "out/checkpoint-2/config.json").write_text("{}")
    callback.on_save(training.args, training.state, training.control)
    assert store.tags() == ["again:step-2-2", "again:step-2"]
    assert str(store.get("again@last").tag) == "again:step-2-2"
    callback.on_save(training.args, training.state, training.control)
    assert len(store.tags()) == 2


@pytest.mark.parametrize("background", [False, True])
def test_rules_say_what_stays(store: casstore.Store, tmp_path: Path, trainings: Any, background: bool) -> None:
    """The best one by a metric that is falling with each step is the first, and stays for its alias and its rule."""
    callback = trainings.CasstoreCallback(
        "few", store=store, keep_last=1, keep_best=("step_", "min", 1), background=background
    )

    class Counts(trainings.Trainer):  # type: ignore[misc]
        def log(self, logs: dict[str, Any], *rest: Any) -> None:
            super().log({**logs, "step_": float(self.state.global_step)}, *rest)

    trainings.Trainer, real = Counts, trainings.Trainer
    try:
        trainings.trainer(tmp_path / "out", callback, save_steps=1, eval_steps=1, logging_steps=1).train()
    finally:
        trainings.Trainer = real
    store.forget(policies=True, dry_run=False)
    assert store.tags() == ["few:step-6", "few:step-1"]
    assert str(store.get("few@best").tag) == "few:step-1"
    assert str(store.policies()["few"]) == "--keep-last 1 --keep-best metrics.step_:min:1"


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("moved", [0, 1])
def test_what_no_alias_has_come_to_mean_is_made_up_for(
    store: casstore.Store, tmp_path: Path, trainings: Any, monkeypatch: pytest.MonkeyPatch, background: bool, moved: int
) -> None:
    """A training that was killed between a commit and the moves of the aliases, or between these."""
    callback = trainings.CasstoreCallback("gap", store=store, keep_best=("step_", "max", 1), background=background)
    about = {"metrics": {"step_": 1.0}, "trainer": {}}
    store.save("gap:step-1", ROOT / "LICENSE", metadata={"step": 1, **about})
    real = store.set_alias
    for alias in ("best", "last"):
        real(f"gap@{alias}", "gap:step-1")
    calls = []

    class Killed(BaseException):
        pass

    def set_alias(alias: str, *arguments: Any, **said: Any) -> Any:
        calls.append(alias)
        if len(calls) > moved:
            raise Killed
        return real(alias, *arguments, **said)

    monkeypatch.setattr(store, "set_alias", set_alias)
    training = trainings.trainer(tmp_path / "out", callback, max_steps=2)
    monkeypatch.setattr(
        "casstore.integrations.transformers._metadata",
        lambda _, state: {"step": state.global_step, "metrics": {"step_": 2.0}, "trainer": {}},
    )
    with pytest.raises(Killed):
        training.train()
    monkeypatch.setattr(store, "set_alias", real)
    assert str(store.get("gap@last").tag) == "gap:step-1"
    callback.on_train_begin(training.args, training.state, training.control)
    assert [str(store.get(f"gap@{alias}").tag) for alias in ("best", "last")] == ["gap:step-2"] * 2
    # What a user moves it back to stays.
    for alias in ("best", "last"):
        store.set_alias(f"gap@{alias}", "gap:step-1")
    callback.on_train_begin(training.args, training.state, training.control)
    assert [str(store.get(f"gap@{alias}").tag) for alias in ("best", "last")] == ["gap:step-1"] * 2


def test_a_protected_alias_stays_and_is_no_reason_to_stop(
    store: casstore.Store, tmp_path: Path, trainings: Any
) -> None:
    store.save("bad:first", ROOT / "LICENSE")
    store.set_alias("bad@last", "bad:first")
    store.protect_alias("bad@last")
    trainings.trainer(tmp_path / "out", trainings.CasstoreCallback("bad", store=store, background=True)).train()
    assert str(store.get("bad@last").tag) == "bad:first"
    assert len(store.list("bad")) == 4


def test_a_background_save_that_fails_is_raised_at_the_end(
    store: casstore.Store, tmp_path: Path, trainings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr("casstore.draft.save", fail)
    training = trainings.trainer(tmp_path / "out", trainings.CasstoreCallback("bad", store=store, background=True))
    with pytest.raises(OSError, match="no"):
        training.train()
    assert training.state.global_step == 6
    assert [str(each.tag) for each in store.drafts()] == ["bad:step-2", "bad:step-4", "bad:step-6"]


@pytest.mark.parametrize("at", ["create", "add", "_set_aside"])
def test_a_checkpoint_that_cannot_be_handed_over_ends_nothing(
    store: casstore.Store, tmp_path: Path, trainings: Any, monkeypatch: pytest.MonkeyPatch, at: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    owner: Any = casstore.Store if at == "create" else casstore.Draft
    real, calls = getattr(owner, at), []

    def fail_once(*arguments: Any, **said: Any) -> Any:
        calls.append(at)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **said)

    monkeypatch.setattr(owner, at, fail_once)
    training = trainings.trainer(tmp_path / "out", trainings.CasstoreCallback("full", store=store, background=True))
    with pytest.raises(OSError, match="No space left"):
        training.train()
    assert training.state.global_step == 6
    assert store.tags() == ["full:step-6", "full:step-2"]
    assert "full: step 4 is not saved, and the training goes on: [Errno 28] No space left" in caplog.text
    assert "; `casstore gc --empty-trash` may free some space" in caplog.text
    assert [str(draft.tag) for draft in store.drafts()] == ["full:step-4"] * (at == "_set_aside")


def test_a_checkpoint_that_the_trainer_has_removed(
    store: casstore.Store, tmp_path: Path, trainings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    training = trainings.trainer(tmp_path / "out", trainings.CasstoreCallback("gone", store=store), max_steps=2)
    training.state.global_step = 5
    training.callback_handler.on_save(training.args, training.state, training.control)
    assert "step 5 is not saved" in caplog.text
    assert not store.tags()


def test_bad_arguments(trainings: Any) -> None:
    with pytest.raises(casstore.InvalidTag):
        trainings.CasstoreCallback("a/b")
    for wrong in ("loss", ("loss", "least", 1), [("loss", "min")], ("loss", "min", 0)):
        with pytest.raises(casstore.InvalidPolicy):
            trainings.CasstoreCallback("a", keep_best=wrong)
    with pytest.raises(casstore.InvalidPolicy):
        trainings.CasstoreCallback("a", keep_last=0)


def test_a_metric_that_is_not_logged_is_named_once(
    store: casstore.Store, tmp_path: Path, trainings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    callback = trainings.CasstoreCallback("typo", store=store, keep_best=[("eval_los", "min", 2), "loss:min:1"])
    training = trainings.trainer(tmp_path / "out", callback, eval_steps=4)
    training.train()
    said = [record.getMessage() for record in caplog.records if "has not been logged" in record.getMessage()]
    assert [text.partition(";")[0] for text in said] == [
        "typo: eval_los has not been logged, so no version counts as the best by it"
    ]
    assert "eval_loss" in said[0]


def test_a_metric_of_an_evaluation_that_never_comes(
    store: casstore.Store, tmp_path: Path, trainings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    callback = trainings.CasstoreCallback("never", store=store, keep_best="eval_loss:min:2")
    trainings.trainer(tmp_path / "out", callback, eval_strategy="no").train()
    assert caplog.text.count("never: eval_loss has not been logged") == 1


def test_no_rules(trainings: Any) -> None:
    assert trainings.CasstoreCallback("none", keep_best=None)._best == []


def test_nothing_to_resume_from(store: casstore.Store, trainings: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert trainings.checkpoint_path("none@last", store=store, missing_ok=True) is None
    assert not caplog.records
    store.save("some:v1", ROOT / "LICENSE")
    store.set_alias("some@last", "some:v1")
    assert trainings.checkpoint_path("some@lst", store=store, missing_ok=True) is None
    assert "some@lst" in caplog.text
    assert "the training starts from the beginning" in caplog.text
    with pytest.raises(casstore.TagNotFound):
        trainings.checkpoint_path("none@last", store=store)


@pytest.mark.crash
@pytest.mark.parametrize("what", ["kill_and_resume", "two_ranks", "two_runs"])
def test_processes(home: Path, tmp_path: Path, what: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "CASSTORE_HOME": str(home), "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integrations.trainings", what, str(tmp_path)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]


@pytest.mark.crash
def test_the_page_runs(home: Path, tmp_path: Path) -> None:
    page = ROOT.joinpath("docs/how-to/hugging-face.md").read_text(encoding="utf-8")
    programs = dict(re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```', page, re.MULTILINE | re.DOTALL))
    with casstore.Store(home) as store:
        for number, size in (("1", 32), ("2", 64)):
            config = plant(tmp_path / number, {"config.json": b'{"model_type": "bert", "hidden_size": %d}' % size})
            store.save(f"bert:v{number}", config)
        store.set_alias("bert@prod", "bert:v1")
        hugging_face.link(store, "bert", tmp_path / "hub")
    environment = {**os.environ, "CASSTORE_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf")}
    said = {}
    for name in ("train.py", "train.py", "load.py"):
        (tmp_path / name).write_text(programs[name])
        done = subprocess.run(
            [sys.executable, name], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said[name] = done.stdout
    assert "the best of 12 steps has" in said["train.py"]
    assert said["load.py"].splitlines()[-2:] == ["32", "64"]
    with casstore.Store(home) as store:
        assert [model.metadata["step"] for model in store.list("sst2")] == [12, 8, 4]
        assert store.get("sst2@last").metadata["step"] == 12
