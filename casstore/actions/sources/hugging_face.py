"""Snapshots in the cache of huggingface_hub: which repository and revision a directory of links stands for.

The cache's layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from casstore.errors import InvalidSource
from casstore.storage.working import check_working_directory

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_LONGEST_REF_BYTES = 256


def origin(snapshot: Path) -> dict[str, Any]:
    """`repo_id`, `repo_type`, `revision` and the `refs` that name it, of `.../models--ORG--NAME/snapshots/REVISION`.

    Raises InvalidSource for any other directory.
    """
    path = snapshot.absolute()
    repository = path.parent.parent
    kind, *parts = repository.name.split("--")
    if path.parent.name != "snapshots" or kind not in _KINDS or not all(parts) or not parts or not path.is_dir():
        raise InvalidSource(
            f"{snapshot} is not a snapshot in a Hugging Face cache; one is a directory such as "
            "~/.cache/huggingface/hub/models--ORG--NAME/snapshots/REVISION"
        )
    return {
        "repo_id": "/".join(parts),
        "repo_type": _KINDS[kind],
        "revision": path.name,
        "refs": _refs(repository / "refs", path.name),
    }


def refuse_move(path: Path) -> None:
    """Raise InvalidSource for a snapshot, whose files are links: without them the bytes stay in the cache, of which
    huggingface_hub then finds a damaged repository."""
    check_working_directory(path)
    try:
        found = origin(Path(os.path.realpath(path)))
    except InvalidSource:
        return
    raise InvalidSource(
        f"{path} is a snapshot in a Hugging Face cache, whose files are links to what others use too: to move it would "
        "free nothing and break the cache. Save it without --move (in Python: without move=True), after which "
        f"`hf cache rm {found['repo_type']}/{found['repo_id']}` frees the space"
    )


def _refs(directory: Path, revision: str) -> list[str]:
    """The branches and tags that stood for the revision when it was fetched."""
    found = []
    for path in sorted(directory.rglob("*")):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            is_ref = path.is_file() and path.stat().st_size <= _LONGEST_REF_BYTES
            if is_ref and path.read_text(encoding="ascii").strip() == revision:
                found.append(str(path.relative_to(directory)))
    return found
