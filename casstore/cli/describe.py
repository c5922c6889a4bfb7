"""A version as JSON, in the same words wherever a verb answers with one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import casstore
from casstore.cli.output import file_name, utc


def summary(model: casstore.Model) -> dict[str, Any]:
    """What `list` and `save` tell of a version."""
    return {
        "tag": str(model.tag),
        "name": model.tag.name,
        "version": model.tag.version,
        "size_bytes": model.size,
        "file_count": model.file_count,
        "created_at": utc(model.created_at),
        "digest": str(model.digest),
        "labels": model.labels,
        "metadata": finite(model.metadata),
    }


def finite(value: Any) -> Any:
    """Metadata for JSON, which has no NaN: null stands for that and for infinities, as for programs that write JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return list(map(finite, value)) if isinstance(value, list) else value


def everything(model: casstore.Model) -> dict[str, Any]:
    """What `show` tells."""
    base = model.base
    return {
        **summary(model),
        "module": model.module,
        "api_version": model.api_version,
        "signatures": model.signatures,
        "options": model.options,
        "context": model.context,
        "casstore_version": model.casstore_version,
        "base": None if base is None else {"tag": str(base.tag), "digest": str(base.digest)},
        "parents": [
            {
                "relation": each.relation,
                "tag": None if each.tag is None else str(each.tag),
                "digest": None if each.digest is None else str(each.digest),
                "uri": each.uri,
            }
            for each in model.parents
        ],
        "saved_labels": model.saved_labels,
        "saved_metadata": finite(model.saved_metadata),
        "files": files(model.files),
    }


def annotation(said: casstore.Annotation) -> dict[str, Any]:
    """What `annotate --log` and `show` tell of a change of what is said of a version."""
    return {
        "number": said.number,
        "annotated_at": utc(said.annotated_at),
        "actor": said.actor,
        "kind": said.kind,
        "key": said.key,
        "value": finite(said.value),
    }


def files(entries: Sequence[casstore.FileEntry]) -> list[dict[str, Any]]:
    """What `show` and `ls` tell of each file."""
    return [
        {"path": file_name(f.path), "size_bytes": f.size, "digest": str(f.digest), "executable": f.executable}
        for f in entries
    ]


def tensors(infos: Sequence[casstore.TensorInfo]) -> list[dict[str, Any]]:
    """What `tensors` tells of each."""
    return [
        {
            "name": info.name,
            "file": file_name(info.file),
            "dtype": info.dtype,
            "shape": None if info.shape is None else list(info.shape),
            "size_bytes": info.size,
            "digest": str(info.digest),
        }
        for info in infos
    ]
