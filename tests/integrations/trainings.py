"""Trainings of a tiny model by the real Trainer, each in a process of its own.

All are forked from one that has imported torch, and has not computed anything by it yet.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_utils import set_seed

import casstore
from casstore.integrations.transformers import CasstoreCallback, checkpoint_path

torch.set_num_threads(1)


def trainer(out: Path, callback: CasstoreCallback, **said: Any) -> Trainer:
    """One that trains for six steps, and evaluates and saves at each second one."""
    set_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8,
    )  # fmt: skip
    rows = [{"input_ids": [each, each + 1, 3], "labels": each % 2} for each in range(12)]
    arguments: dict[str, Any] = {
        "output_dir": str(out), "max_steps": 6, "save_steps": 2, "eval_steps": 2, "logging_steps": 2,
        "eval_strategy": "steps", "per_device_train_batch_size": 2, "save_total_limit": 1, "report_to": "none",
        "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, **said,
    }  # fmt: skip
    made = TrainingArguments(**arguments)
    return Trainer(
        BertForSequenceClassification(config), made, train_dataset=rows, eval_dataset=rows, callbacks=[callback]
    )


def forked(action: Callable[[], object]) -> Callable[[], int]:
    """Begin it in a child. Returns what waits for it, and returns its status."""
    process = os.fork()
    if not process:
        code = 1
        try:
            action()
            code = 0
        except Exception:  # noqa: BLE001 - said below by the status
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(out: Path, name: str, at: str, count: int, background: bool) -> None:
    """Train, and be killed at the beginning of the so-manyth call of a method of the store, or of the Trainer."""

    def call(*arguments: Any, **said: Any) -> Any:
        nonlocal count
        count -= 1
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **said)

    owner: Any = Trainer if hasattr(Trainer, at) else casstore.Draft if hasattr(casstore.Draft, at) else casstore.Store
    real = getattr(owner, at)
    setattr(owner, at, call)
    trainer(out, CasstoreCallback(name, background=background), save_total_limit=2).train()


def resumed(out: Path, name: str, background: bool) -> None:
    """Go on from the newest whole checkpoint to the end."""
    path = checkpoint_path(f"{name}@last", missing_ok=True)
    # Directories of the killed run, of later steps, count as newer where the file system's times say nothing.
    training = trainer(out, CasstoreCallback(name, background=background), save_total_limit=2)
    training.train(resume_from_checkpoint=path)
    assert training.state.global_step == 6


def kill_and_resume(home: Path) -> None:
    states = [
        ("_save_optimizer_and_scheduler", 2, False), ("take_from", 2, False), ("_save", 1, False),
        ("set_alias", 3, False), ("add", 2, True), ("_set_aside", 2, True), ("_save_from", 2, True),
        ("set_alias", 2, True),
    ]  # fmt: skip
    for number, (at, count, background) in enumerate(states):
        out, name = home / f"out{number}", f"run{number}"
        status = forked(lambda: killed(out, name, at, count, background))()  # noqa: B023 - called at once
        assert status == -signal.SIGKILL, (at, status)
        assert forked(lambda: resumed(out, name, background))() == 0, at  # noqa: B023
        assert forked(lambda: check(name))() == 0, at  # noqa: B023


def check(name: str) -> None:
    with casstore.Store() as store:
        tags = [str(model.tag) for model in store.list(name)]
        steps = {each.partition("step-")[2].partition("-")[0] for each in tags}
        assert steps == {"2", "4", "6"}, tags
        last = store.get(f"{name}@last")
        assert last.metadata["step"] == 6, last
        assert store.verify().is_sound


def two_ranks(home: Path) -> None:
    """Of one training in two processes, the first saves, after both have written their random states."""
    for how, codes in (("", [0, 0]), ("slow", [0, 0]), ("fails", [1, 0])):
        waits = [forked(lambda: rank(home / f"out{how}", each, how)) for each in ("0", "1")]  # noqa: B023
        assert [wait() for wait in waits] == codes, how

    def see() -> None:
        with casstore.Store() as store:
            tags = [str(model.tag) for model in store.list("both")]
            assert tags == ["both:step-6", "both:step-4", "both:step-2"], tags
            assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.path for file in store.get("both@last").files}

    assert forked(see)() == 0


def rank(out: Path, number: str, how: str) -> None:
    port = os.environ["MASTER_PORT"]
    os.environ.update(RANK=number, LOCAL_RANK=number, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    real, name = casstore.Draft._save_from, "both" + how

    def save_from(*arguments: Any) -> casstore.Model:
        time.sleep(1)
        if how == "fails":
            raise OSError("no")
        return real(*arguments)

    casstore.Draft._save_from = save_from  # type: ignore[method-assign, assignment]
    trainer(out, CasstoreCallback(name, background=bool(how)), ddp_backend="gloo").train()
    if how != "fails":
        with casstore.Store() as store:
            assert store.get(f"{name}@last").metadata["step"] == 6
    torch.distributed.destroy_process_group()


def two_runs(home: Path) -> None:
    """Two trainings that know nothing of each other save the same steps under one name."""
    out = [home / "one", home / "two"]
    waits = [
        forked(lambda: trainer(each, CasstoreCallback("same", background=True), learning_rate=rate).train())  # noqa: B023
        for each, rate in zip(out, (1e-3, 1e-2), strict=True)
    ]
    assert [wait() for wait in waits] == [0, 0]

    def see() -> None:
        with casstore.Store() as store:
            tags = sorted(str(model.tag.version) for model in store.list("same"))
            assert tags == ["step-2", "step-2-2", "step-4", "step-4-2", "step-6", "step-6-2"], tags
            assert not store.drafts()

    assert forked(see)() == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
