"""A comparison as JSON."""

from __future__ import annotations

import math
from typing import Any

import casstore
from casstore.cli.output import file_name


def document_of(found: casstore.Diff) -> dict[str, Any]:
    """What `diff` answers with `--json`."""
    return {
        "old": found.old,
        "new": file_name(found.new),
        "is_same": found.is_same,
        "files": [_file(each) for each in found.files],
        "same_files": found.same_files,
        "documents": [
            {
                "path": file_name(each.path), "changes": [_value(change) for change in each.changes],
                "more": each.more, "problem": each.problem,
            }
            for each in found.documents
        ],
        "labels": [_value(each) for each in found.labels],
        "metadata": [_value(each) for each in found.metadata],
        "metrics": [
            {"path": each.path, "old": plain(each.old), "new": plain(each.new), "change": plain(each.change)}
            for each in found.metrics
        ],
        "tensors": [_tensor(each) for each in found.tensors],
        "damage": list(found.damage),
    }  # fmt: skip


def plain(value: Any) -> Any:
    """A value of a document in JSON's types: null for NaN and infinities, and text for what else YAML has."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(plain, value))
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _file(file: casstore.FileChange) -> dict[str, Any]:
    return {
        "change": file.change.value,
        "path": file_name(file.path),
        "old_path": None if file.old_path is None else file_name(file.old_path),
        "old_bytes": file.old_size,
        "new_bytes": file.new_size,
        "share": file.share,
        "old_executable": file.old_executable,
        "new_executable": file.new_executable,
    }


def _value(change: casstore.ValueChange) -> dict[str, Any]:
    return {"change": change.change.value, "path": change.path, "old": plain(change.old), "new": plain(change.new)}


def _tensor(tensor: casstore.TensorChange) -> dict[str, Any]:
    values = tensor.values
    return {
        "change": tensor.change.value,
        "name": tensor.name,
        "layer": tensor.layer,
        "old": _info(tensor.old),
        "new": _info(tensor.new),
        "share": tensor.share,
        "values": None if values is None else {name: plain(getattr(values, name)) for name in values.__slots__},
        "problem": tensor.problem,
    }


def _info(info: casstore.TensorInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    shape = None if info.shape is None else list(info.shape)
    return {
        "file": file_name(info.file), "name": info.name, "dtype": info.dtype, "shape": shape, "size_bytes": info.size,
    }  # fmt: skip
