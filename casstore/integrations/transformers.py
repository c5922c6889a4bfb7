"""Checkpoints of Hugging Face's `Trainer` as versions: a callback saves each, and a training resumes from one."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import casstore
from casstore.integrations.needed import needed
from casstore.integrations.unmarked import unmarked

with needed("transformers", "trainer"):
    import transformers
    from transformers.trainer_callback import TrainerCallback

_log = logging.getLogger(__name__)
_ARGUMENTS = ("output_dir", "run_name", "seed", "learning_rate", "num_train_epochs")
_STATE = ("max_steps", "train_batch_size", "best_metric", "best_global_step")


class _Rule(NamedTuple):
    """By which metric a version is better than another, and how many of the best are kept."""

    metric: str
    direction: str
    kept: int

    def __str__(self) -> str:
        metric = self.metric
        if not re.fullmatch(r"[\w-]+", metric):
            metric = "'" + metric.replace("'", "''") + "'"
        return f"metrics.{metric}:{self.direction}:{self.kept}"

    def is_better(self, value: float, than: float) -> bool:
        return value > than if self.direction == "max" else value < than


class CasstoreCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not there where types are checked
    """Saves each checkpoint of a `Trainer` as the version `NAME:step-N`, as the difference from the one before.

    `NAME@last` means the newest checkpoint that is saved whole, and `NAME@best` the one with the best value of the
    first `keep_best`, or of the Trainer's `metric_for_best_model`. Both are moved once the version is committed; if a
    training is killed in between, the next one moves them when it begins. The metadata is
    `{"step", "epoch", "metrics": {...}, "trainer": {...}}`, with the metrics that were logged at that step.

    The first process of all saves, once all processes have written their part; the Trainer's own directories stay, so
    `save_total_limit=1` is enough. A resumed run that saves a step again changes nothing where the files are equal;
    otherwise the version is `step-N-2` and so on.

    Parameters
    ----------
    name
        The name of the versions.
    store
        The store. None means `casstore.store_at()` at the time of each save.
    labels
        The labels of each version.
    keep_last, keep_best
        Which checkpoints stay: so many of the newest, and so many with the best value of a metric, as
        `("eval_loss", "min", 2)` or `"eval_loss:min:2"`, or several of these. When the training begins they become the
        policy of this name, in place of an earlier one, so the rules go on after it. What has an alias stays anyway.
    background
        Go on training while a checkpoint is saved. Its files are copied first, so the Trainer may remove them. What
        could not be saved is logged at once and raises at the end of the training; once copied, it is kept as a draft.

    Raises
    ------
    InvalidTag
        `name` cannot be a name.
    InvalidPolicy
        `keep_last` or `keep_best` cannot be understood.
    """

    def __init__(
        self,
        name: str,
        *,
        store: casstore.Store | None = None,
        labels: Mapping[str, Any] | None = None,
        keep_last: int | None = None,
        keep_best: str | tuple[str, str, int] | Iterable[str | tuple[str, str, int]] | None = (),
        background: bool = False,
    ) -> None:
        self._name = casstore.Tag(name, "step-0").name
        self._best = _rules(keep_best)
        self._keep: dict[str, Any] = {"keep_last": keep_last, "keep_best": [str(rule) for rule in self._best]}
        casstore.KeepRules.of(self._keep)
        self._store = store
        self._labels = dict(labels or {})
        self._background = background
        self._pending: list[Future[None]] = []
        self._missed: set[str] = set()  # metrics of which it has been said that they are not logged

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Move the aliases to what was saved before they could be, and store the rules by which versions are kept."""
        self._pending = []  # of a training that was broken off, whose errors have been logged
        if not state.is_world_process_zero:
            return
        rule = self._rule(args)
        for model in unmarked(self._at(), self._name):
            self._point(str(model.tag), model.metadata, rule)
        if any(self._keep.values()):
            self._at().set_policy(self._name, **self._keep)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Save the checkpoint that the Trainer has just written."""
        _wait_for_others()  # whose random states and shards are part of it
        if not state.is_world_process_zero:
            return
        directory = _directory(args, state)
        if not directory.is_dir():
            _log.warning(
                "%s: step %s is not saved: the Trainer has no %s, or has removed it at once, by its save_total_limit",
                self._name, state.global_step, directory,
            )  # fmt: skip
            return
        about = _metadata(args, state)
        rule = self._rule(args)
        self._check_metrics(state, rule)
        if self._background:
            self._save_later(directory, about, rule)
        else:
            self._point(self._save(directory, about), about, rule)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Have all processes wait for what is saved in the background. Raises the first error of it in the first."""
        pending, self._pending = self._pending, []
        errors = [each.exception() for each in pending]
        if state.is_world_process_zero:
            self._check_metrics(state, self._rule(args), is_end=True)
        _wait_for_others()  # who would find an older `@best` until then
        for error in filter(None, errors):
            raise error

    def _at(self) -> casstore.Store:
        return casstore.store_at() if self._store is None else self._store

    def _rule(self, args: Any) -> _Rule | None:
        """What `@best` goes by."""
        if self._best:
            return self._best[0]
        metric = args.metric_for_best_model
        if not metric:
            return None
        prefixed = metric if metric.startswith("eval_") else f"eval_{metric}"
        return _Rule(prefixed, "max" if args.greater_is_better else "min", 1)

    def _check_metrics(self, state: Any, rule: _Rule | None, *, is_end: bool = False) -> None:
        """Say, once, which metric of the rules is not logged: while others of its kind are, or by the end."""
        logged = {key for entry in state.log_history for key in entry} - {"step", "epoch"}
        for metric in dict.fromkeys(each.metric for each in self._best or filter(None, [rule])):
            is_evaluated = metric.startswith("eval_")  # that may be done less often than checkpoints are saved
            is_due = is_end or any(key.startswith("eval_") == is_evaluated for key in logged)
            if is_due and metric not in logged | self._missed:
                self._missed.add(metric)
                _log.warning(
                    "%s: %s has not been logged, so no version counts as the best by it; what has been: %s",
                    self._name, metric, ", ".join(sorted(logged)) or "nothing",
                )  # fmt: skip

    def _save(self, directory: Path, about: dict[str, Any]) -> str:
        while True:
            tag, is_saved = self._tag(about["step"], directory)
            try:
                if not is_saved:
                    self._at().save(tag, directory, labels=self._labels, metadata=about, materialize=False)
            except casstore.TagExists:  # another process was first
                continue
            return tag

    def _save_later(self, directory: Path, about: dict[str, Any], rule: _Rule | None) -> None:
        settled: Future[None] = Future()
        self._pending = [each for each in self._pending if not each.done() or each.exception()] + [settled]
        try:
            self._hand_over(directory, about, rule, settled)
        except (OSError, casstore.CasstoreError) as error:
            is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            _log.error(
                "%s: step %s is not saved, and the training goes on: %s%s", self._name, about["step"], error,
                "; `casstore gc --empty-trash` may free some space" if is_full else "",
            )  # fmt: skip
            if not settled.done():
                settled.set_exception(error)

    def _hand_over(self, directory: Path, about: dict[str, Any], rule: _Rule | None, settled: Future[None]) -> None:
        while True:
            tag, is_saved = self._tag(about["step"], directory)
            if is_saved:
                self._point(tag, about, rule)
                settled.set_result(None)
                return
            try:
                draft = self._at().create(tag, labels=self._labels, metadata=about, materialize=False)
            except casstore.TagExists:  # another process was first
                continue
            break
        try:
            draft.add(directory)
        except BaseException:
            draft.discard()
            raise
        try:
            draft.commit_async()
        finally:
            with contextlib.suppress(casstore.CasstoreError):  # it could not be handed over
                # Before the thread saves the next one, after which the rules may forget what no alias means.
                draft.future.add_done_callback(lambda future: self._settle(future, tag, about, rule, settled))

    def _settle(
        self, saving: Future[Any], tag: str, about: dict[str, Any], rule: _Rule | None, settled: Future[None]
    ) -> None:
        error: BaseException | None = None
        try:
            error = saving.exception()
            if isinstance(error, casstore.TagExists) and error.draft_path is not None:
                tag = self._save_kept(Path(error.draft_path), about["step"])
            elif error is not None:
                raise error
            self._point(tag, about, rule)
        except BaseException as failure:  # noqa: BLE001 - raised at the end of the training
            if failure is not error:
                _log.error("%s: %s", tag, failure)
            settled.set_exception(failure)
        else:
            settled.set_result(None)

    def _save_kept(self, directory: Path, step: int) -> str:
        """Save a draft whose tag another process has taken meanwhile."""
        kept = next(each for each in self._at().drafts() if Path(each.path) == directory)
        while True:
            tag, is_saved = self._tag(step, directory)
            try:
                if is_saved:
                    self._at().remove_draft(kept)
                else:
                    self._at().save_draft(kept, tag)
            except casstore.TagExists:
                continue
            return tag

    def _tag(self, step: int, directory: Path) -> tuple[str, bool]:
        """What to save a step as, and whether these very files are saved as that already."""
        for number in itertools.count(1):
            tag = f"{self._name}:step-{step}" + (f"-{number}" if number > 1 else "")
            try:
                self._at().exact(tag)
            except casstore.TagNotFound:
                return tag, False
            if not self._at().diff(tag, directory).files:
                return tag, True
        raise AssertionError

    def _point(self, tag: str, about: Mapping[str, Any], rule: _Rule | None) -> None:
        """Move `@best` where this one is, and then `@last`, which so tells that both are where they belong."""
        if rule is not None and self._is_best(about["metrics"].get(rule.metric), rule):
            self._move("best", tag, f"{rule.metric} {about['metrics'][rule.metric]}")
        self._move("last", tag, f"step {about['step']}")

    def _move(self, alias: str, tag: str, reason: str) -> None:
        try:
            self._at().set_alias(f"{self._name}@{alias}", tag, reason=reason)
        except casstore.AliasProtected as error:
            _log.warning("%s", error)

    def _is_best(self, value: Any, rule: _Rule) -> bool:
        number = _number(value)
        if number is None:
            return False
        try:
            metrics = self._at().get(f"{self._name}@best", pull=False).metadata.get("metrics")
        except casstore.TagNotFound:
            return True
        best = _number(metrics.get(rule.metric)) if isinstance(metrics, Mapping) else None
        return best is None or rule.is_better(number, best)


def checkpoint_path(tag: str, *, store: casstore.Store | None = None, missing_ok: bool = False) -> str | None:
    """Return the directory of a checkpoint, for `Trainer.train(resume_from_checkpoint=...)` and `from_pretrained`.

    Parameters
    ----------
    tag
        What `Store.get` takes: "sst2@last", "sst2@best", "sst2:step-500".
    store
        The store. None means `casstore.store_at()`.
    missing_ok
        Where there is none yet, return None, with which `train` starts from the beginning. It is logged where there are
        other versions of that name.

    Returns
    -------
    str | None
        The directory. Its files are the store's own and cannot be written to.

    Raises
    ------
    TagNotFound
        There is no such version, and `missing_ok` is false.
    """
    store = casstore.store_at() if store is None else store
    try:
        return store.get(tag).path
    except casstore.TagNotFound as error:
        if not missing_ok:
            raise
        if store.list(re.split("[:@]", tag)[0]):  # perhaps a slip
            _log.warning("%s; the training starts from the beginning", error)
        return None


def _rules(keep_best: Any) -> list[_Rule]:
    said = [keep_best] if isinstance(keep_best, str) or _is_one(keep_best) else [*(keep_best or ())]
    found = []
    for each in said:
        parts = each.rsplit(":", 2) if isinstance(each, str) else [*each]
        if len(parts) != 3:
            raise casstore.InvalidPolicy(f"keep_best takes ('eval_loss', 'min', 2) or 'eval_loss:min:2', not {each!r}")
        found.append(_Rule(str(parts[0]).removeprefix("metrics."), *parts[1:]))
    return found


def _is_one(keep_best: Any) -> bool:
    """Whether it is one rule, in three parts, and not several rules."""
    return isinstance(keep_best, tuple) and len(keep_best) == 3 and keep_best[1] in ("min", "max")


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _directory(args: Any, state: Any) -> Path:
    """Where the Trainer has written the checkpoint; a search for hyperparameters gives each run a directory."""
    name = f"checkpoint-{state.global_step}"
    directory = Path(args.output_dir, name)
    runs = [] if directory.is_dir() else Path(args.output_dir).glob(f"run-*/{name}")
    return max(runs, key=lambda each: each.stat().st_mtime_ns, default=directory)


def _metadata(args: Any, state: Any) -> dict[str, Any]:
    metrics = {
        key: value
        for entry in state.log_history
        if entry.get("step") == state.global_step
        for key, value in entry.items()
        if key not in ("step", "epoch")
    }
    trainer = {name: getattr(args, name, None) for name in _ARGUMENTS}
    trainer |= {name: getattr(state, name, None) for name in _STATE}
    trainer["output_dir"] = os.fspath(args.output_dir)
    trainer["transformers"] = transformers.__version__
    return {"step": state.global_step, "epoch": state.epoch, "metrics": metrics, "trainer": trainer}


def _wait_for_others() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
