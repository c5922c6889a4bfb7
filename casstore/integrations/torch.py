"""PyTorch's objects and distributed checkpoints as versions.

>>> from casstore.integrations.torch import load, save  # doctest: +SKIP
>>> save(model.state_dict(), "bert:v1", metadata={"loss": 0.3})  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import casstore
from casstore.integrations.needed import needed

with needed("torch", "torch"):
    import torch
    from torch.distributed.checkpoint import FileSystemWriter
    from torch.distributed.checkpoint.filesystem import _StoragePrefix
    from torch.distributed.checkpoint.metadata import StorageMeta

__all__ = ["CasstoreWriter", "async_save", "load", "save"]

FILE = "model.pt"


def save(obj: Any, tag: str, *, store: casstore.Store | None = None, file: str = FILE, **about: Any) -> casstore.Model:
    """Save an object by `torch.save` as the one file of a new version.

    Parameters
    ----------
    obj
        What `torch.save` takes, such as a state dict.
    tag
        `name:version`; a name alone gets a generated version.
    store
        The store; by default that of `$CASSTORE_HOME`, or else `~/.casstore`.
    file
        The name of the file in the version.
    about
        What else `Store.create` takes, such as `labels`, `metadata` and `base`.

    Returns
    -------
    Model
        The saved version.
    """
    return _written(obj, tag, store, file, about).commit()


def async_save(
    obj: Any, tag: str, *, store: casstore.Store | None = None, file: str = FILE, **about: Any
) -> Future[casstore.Model]:
    """As `save`, but go on once the file is written: a thread stores it. See `Draft.commit_async`."""
    return _written(obj, tag, store, file, about).commit_async()


def _written(obj: Any, tag: str, store: casstore.Store | None, file: str, about: Mapping[str, Any]) -> casstore.Draft:
    draft = (store or casstore.store_at()).create(tag, **about)
    try:
        path = os.path.join(draft.path, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.save(obj, path)
    except BaseException:
        draft.discard()
        raise
    return draft


def load(tag: str, *, store: casstore.Store | None = None, file: str = FILE, **options: Any) -> Any:
    """Load what `save` has saved, by `torch.load`.

    The file is read from the store, each chunk checked against its digest, and no directory is made; with `mmap=True`,
    which needs a path, from the version's directory.

    Parameters
    ----------
    tag
        The version: `bert:v1`, `bert` for the newest, `bert@prod`.
    store, file
        As in `save`.
    options
        What `torch.load` takes, such as `map_location`. `weights_only` is True unless False is given, and False
        runs whatever code the file says: only for files of people that you trust.

    Raises
    ------
    TagNotFound
        There is no such version.
    FileNotFoundError
        The version has no such file.
    """
    model = (store or casstore.store_at()).get(tag)
    options.setdefault("weights_only", True)
    paths = [each.path for each in model.files]
    if file not in paths:
        near = next((path for path in paths if path.endswith((".pt", ".pth", ".bin", ".ckpt"))), None)
        advice = "model.files lists what it has" if near is None else f"say which is meant: file={near!r}"
        raise FileNotFoundError(f"{model.tag} has no file {file!r}; {advice}")
    if options.get("mmap"):
        return torch.load(os.path.join(model.path, file), **options)
    with model.open(file) as opened:
        return torch.load(opened, **options)


@dataclass
class _Placed(_StoragePrefix):  # type: ignore[misc]  # torch may not be installed
    """How a rank's files are called, which directory they are to be written into, and what they will be saved as."""

    directory: str = ""
    tag: str = ""


class CasstoreWriter(FileSystemWriter):  # type: ignore[misc]  # torch may not be installed
    """Writes a checkpoint of `torch.distributed.checkpoint` into a draft, and saves it as a version once it is whole.

    For `dcp.save` and `dcp.async_save`. Nothing is copied, and there is no version unless all ranks have written
    theirs. All ranks make such a writer, on one machine, with the same arguments; `tag` and the description count on
    the coordinator alone. It may be used for one checkpoint after the other: `checkpoint_id` then is the next tag.

    To load, give `FileSystemReader` the version's `path`, or the `FsspecReader` of
    `torch.distributed.checkpoint._fsspec_filesystem` its `url`, by which no directory is made.

    Parameters
    ----------
    tag
        `name:version`; a name alone gets a generated version.
    store
        The store; by default that of `$CASSTORE_HOME`, or else `~/.casstore`.
    about
        What else `Store.create` takes: `{"metadata": {"step": 100}}`.
    options
        What `FileSystemWriter` takes, such as `thread_count`. Files are not synced one by one (`sync_files`), as
        the store syncs them when it saves.
    """

    def __init__(
        self, tag: str, *, store: casstore.Store | None = None, about: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(os.curdir, **{"sync_files": False, **options})
        self.tag = tag
        self.about = dict(about or {})
        self._store = store
        self._draft: casstore.Draft | None = None
        self._model: casstore.Model | None = None
        self._written: str | None = None  # the tag of what another rank saves

    @property
    def model(self) -> casstore.Model:
        """The version that was saved last, on every rank once the save is done.

        Raises
        ------
        CasstoreError
            None was saved by this object: as where the save failed, and where `async_save` saves in another process.
        """
        if self._model is None and self._written is not None:
            with contextlib.suppress(casstore.TagNotFound):
                self._model = (self._store or casstore.store_at()).get(self._written, pull=False)
        if self._model is None:
            raise casstore.CasstoreError(f"this process has not saved {self.tag}; store.get tells whether another has")
        return self._model

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin a checkpoint; `checkpoint_id` is the tag to save it as, where it is another than before."""
        super().reset()
        self._drop()
        self._written = None
        if checkpoint_id is not None:
            self.tag = str(checkpoint_id)

    def _drop(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.discard()

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        if not self.use_collectives:
            raise ValueError("a version is written by all ranks together: leave out use_collectives=False")
        if is_coordinator:
            self._drop()
            # As in a block: where it is not committed, as when another rank fails, half a checkpoint is not kept.
            self._draft = (self._store or casstore.store_at()).create(self.tag, **self.about).__enter__()
            self.path = self.fs.init_path(self._draft.path)

    def prepare_local_plan(self, plan: Any) -> Any:
        return plan  # a draft is there, and is empty

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        """Tells the ranks where to write, and what it will be."""
        tag = "" if self._draft is None else str(self._draft.tag)
        return [
            replace(plan, storage_data=_Placed(f"__{rank}_", str(self.path), tag)) for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: Any, planner: Any) -> Any:
        if self._draft is None:
            # A planner that caches plans hands out what was said for an earlier checkpoint.
            if not os.path.isdir(plan.storage_data.directory):
                raise ValueError("the ranks were told no directory: a plan that was cached cannot be used here")
            self.path = self.fs.init_path(plan.storage_data.directory)
            self._model, self._written = None, plan.storage_data.tag
        try:
            return super().write_data(plan, planner)
        except BaseException:
            self._drop()  # another rank's failure is not heard of: that draft goes with the writer, or this process
            raise

    def storage_meta(self) -> Any:
        return StorageMeta(checkpoint_id=self.tag, save_id=self.save_id)

    def finish(self, metadata: Any, results: Any) -> None:
        """Save the version. Raises what `Draft.commit` raises."""
        super().finish(metadata, results)
        draft, self._draft = self._draft, None
        if draft is None:
            raise casstore.CasstoreError(f"{self.tag} was not begun by this process")
        self._model = draft.commit()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        return True  # a tag, which is checked when the version is begun

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_draft": None}
