"""Lightning's checkpoints as versions."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import casstore
from casstore.integrations.needed import needed
from casstore.integrations.unmarked import unmarked

if "lightning" not in sys.modules and "pytorch_lightning" in sys.modules:
    # The same under the package's older name: its Trainer takes only callbacks of its own.
    from pytorch_lightning.callbacks import ModelCheckpoint
else:
    with needed("lightning", "lightning"):
        from lightning.pytorch.callbacks import ModelCheckpoint

__all__ = ["CasstoreCheckpoint"]

FILE = "last.ckpt"
_log = logging.getLogger(__name__)


class CasstoreCheckpoint(ModelCheckpoint):  # type: ignore[misc]  # Lightning may not be installed
    """Lightning's `ModelCheckpoint` which also saves each checkpoint as a version that stays.

    Files in `dirpath` come and go as `ModelCheckpoint` is told; what was saved as a version is kept when they go. The
    version of step 100 is `NAME:step-100` and has one file, `last.ckpt`, or the files of a sharded checkpoint; where
    that tag is taken, as by a run that was begun anew, its version is generated. `NAME@last` is the one that was saved
    last, `NAME@best` the best so far by `monitor`, of all runs of that name. Metadata: `step`, `epoch` and `metrics`.

    `trainer.fit(model, ckpt_path="casstore://NAME@last/last.ckpt")` goes on from there.

    Parameters
    ----------
    name
        What the versions are called.
    store
        The store; by default that of `$CASSTORE_HOME`, or else `~/.casstore`.
    about
        What else `Store.create` takes: `{"labels": {"task": "sst2"}}`.
    options
        What `ModelCheckpoint` takes, such as `monitor` and `every_n_train_steps`.
    """

    def __init__(
        self, name: str, *, store: casstore.Store | None = None, about: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.name = name
        self._store = store
        self._about = dict(about or {})
        self._saved_step = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Move the aliases to what was saved before they could be, as by a training that was killed."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            store = self._store or casstore.store_at()
            for model in unmarked(store, self.name):
                self._point(store, str(model.tag), model.metadata["metrics"])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Wait, on every rank, until the first has saved the last checkpoint."""
        super().on_train_end(trainer, pl_module)
        trainer.strategy.barrier()

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        trainer.strategy.barrier()  # other ranks may still write their shards
        if trainer.is_global_zero and trainer.global_step != self._saved_step:
            self._saved_step = trainer.global_step
            self._save(trainer, filepath)

    def _save(self, trainer: Any, filepath: str) -> None:
        if not os.path.exists(filepath):
            raise casstore.CasstoreError(
                f"{filepath} is not there to be saved as a version: CasstoreCheckpoint needs a dirpath on this "
                "machine, and a Trainer without AsyncCheckpointIO"
            )
        store = self._store or casstore.store_at()
        tag = f"{self.name}:step-{trainer.global_step}"
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metadata = {"step": trainer.global_step, "epoch": trainer.current_epoch, "metrics": metrics}
        about = {"materialize": False, **self._about}
        about["metadata"] = {**metadata, **about.get("metadata", {})}
        try:
            model = _saved(store, self.name if store.exists(tag) else tag, filepath, about)
        except casstore.TagExists as error:  # another training was first
            if error.draft_path is None:
                model = _saved(store, self.name, filepath, about)
            else:
                kept = next(each for each in store.drafts() if each.path == error.draft_path)
                model = store.save_draft(kept, self.name)
        self._point(store, str(model.tag), metrics)

    def _point(self, store: casstore.Store, tag: str, metrics: Mapping[str, float]) -> None:
        """Move `@best` where this one is, and then `@last`, which so tells that both are where they belong."""
        if self._is_best(store, metrics):
            self._move(store, "best", tag)
        self._move(store, "last", tag)

    def _move(self, store: casstore.Store, alias: str, tag: str) -> None:
        try:
            store.set_alias(f"{self.name}@{alias}", tag)
        except casstore.AliasProtected as error:  # no reason to end a training, of which other ranks wait for this one
            _log.warning("%s", error)

    def _is_best(self, store: casstore.Store, metrics: Mapping[str, float]) -> bool:
        """Whether no version that was the best, also of a run before, is better by what is monitored."""
        value = metrics.get(self.monitor or "")
        if not isinstance(value, int | float) or math.isnan(value):
            return False
        try:
            best = store.get(f"{self.name}@best", pull=False).metadata["metrics"][self.monitor]
        except (casstore.TagNotFound, KeyError):
            return True
        return bool(value < best if self.mode == "min" else value > best)


def _saved(store: casstore.Store, tag: str, path: str, about: Mapping[str, Any]) -> casstore.Model:
    with store.create(tag, **about) as draft, TemporaryDirectory() as scratch:
        if os.path.isfile(path):
            # A file is saved by the name by which it is given.
            named = os.path.join(scratch, FILE)
            os.symlink(os.path.abspath(path), named)
            path = named
        draft.add(path, ignore=False)
    return draft.model
