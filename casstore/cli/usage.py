"""What versions hold and take, in the same words for a store, a model and a version."""

from __future__ import annotations

import dataclasses
from typing import Any

import casstore
from casstore.cli.output import Bytes, Share

_OF_STORE = ("dead_bytes", "trapped_bytes", "overhead_bytes", "trash_versions", "trash_bytes", "kept_bytes")
_OF_VERSION = ("frees_bytes", "frees_at_rewrite_bytes")


def usage_document(usage: casstore.Usage) -> dict[str, Any]:
    """For --json. What has no meaning for a model or a version is left out."""
    document = dataclasses.asdict(usage)
    encodings = {name: counts._asdict() for name, counts in usage.encodings.items()}
    for name in ("encodings", "materialized", "pinned", *(_OF_VERSION if usage.frees_bytes is None else _OF_STORE)):
        del document[name]
    return {
        **document,
        "ratio": None if usage.ratio is None else round(usage.ratio, 3),
        "share_by_file": round(usage.share_by_file, 6),
        "share_by_chunk": round(usage.share_by_chunk, 6),
        "share_by_encoding": round(usage.share_by_encoding, 6),
        "share_needed": round(usage.share_needed, 6),
        "encodings": encodings,
    }


def usage_fields(usage: casstore.Usage) -> dict[str, Any]:
    """One line for each of: size, size if copied, size as stored, ratio, and the shares saved."""
    return {
        "logical": Bytes(usage.logical_bytes),
        "copied": Bytes(usage.copied_bytes),
        "stored": Bytes(usage.stored_bytes),
        "ratio": ratio_text(usage),
        "saved.file": Share(usage.share_by_file),
        "saved.chunk": Share(usage.share_by_chunk),
        "saved.encoding": Share(usage.share_by_encoding),
    }


def version_fields(usage: casstore.Usage) -> dict[str, Any]:
    """For a version: what stands ready besides, what deleting it frees, and how it is held."""
    return {
        "redundant": Bytes(usage.redundant_bytes),
        "frees": Bytes(usage.frees_bytes or 0),
        "frees.later": Bytes(usage.frees_at_rewrite_bytes or 0),
        "held": held(usage),
    }


def held(usage: casstore.Usage) -> str:
    """How a version is held: its directory stands, or not; then its bytes are all in packs, or not yet."""
    if usage.materialized:
        state = "materialized"
    elif usage.loose_bytes or usage.redundant_bytes:
        state = "not materialized"
    else:
        state = "packed"
    return f"{state}, pinned" if usage.pinned else state


def ratio_text(usage: casstore.Usage) -> str | None:
    return None if usage.ratio is None else f"{usage.ratio:.2f}"
