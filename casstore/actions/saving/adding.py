"""Copying what stands elsewhere into a draft, so that it may be changed, or be gone, when the draft is saved."""

from __future__ import annotations

import os
from pathlib import Path

from casstore.actions.describing import model_yaml
from casstore.actions.saving.unchanged import changed, open_as_found
from casstore.actions.sources.homes import check_holds_none, check_source
from casstore.actions.sources.ignoring import Rules
from casstore.actions.sources.source import SourceFile, find_source, is_unchanged
from casstore.actions.workspace import Workspace
from casstore.progress import Progress
from casstore.storage import files


def add(workspace: Workspace, root: Path, draft: Path, rules: Rules, progress: Progress) -> None:
    """Copy a directory's files, or a file, into a draft's directory: reflinked where the file system can.

    Raises InvalidSource, FileChanged, FileExistsError, OSError; what was copied by then stands in the draft.
    """
    check_source(workspace.layout, root, take=False)
    source = find_source(root, rules)
    check_holds_none(root, (file.path for file in source.files))
    if source.descriptor is not None:
        model_yaml.check_replaceable(source.descriptor)
    for directory in {*source.empty_directories, *(os.path.dirname(file.path) for file in source.files)}:
        files.make_directory(draft / directory, parents=True)
    progress.start("copy", source.size)
    try:
        for file in source.files:
            _copy(file, draft / file.path, progress)
    finally:
        progress.finish()


def _copy(file: SourceFile, target: Path, progress: Progress) -> None:
    opened, before = open_as_found(file.disk_path, is_direct=file.is_direct)
    with opened as descriptor, files.create_file(target) as copy:
        files.copy_file(descriptor, copy, progress.advance)
        if not is_unchanged(os.fstat(descriptor), before):
            raise changed(file.disk_path)
        files.set_mode(copy, 0o700 if files.is_executable(before) else 0o600)
