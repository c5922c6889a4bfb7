"""What a CNCF ModelPack says of a version: its configuration, and the type of each file."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from casstore.actions.describing import times
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.plain_json import parsed
from casstore.storage.manifest import FileEntry
from casstore.storage.recipe import Recipe

CONFIG_FILE = "config.json"  # of Hugging Face's models
MAX_CONFIG_BYTES = 1 << 20
_FORMATS = {
    "safetensors": "safetensors", "gguf": "gguf", "onnx": "onnx", "bin": "pytorch", "pt": "pytorch", "pth": "pytorch",
    "ckpt": "pytorch", "distcp": "pytorch", "npz": "numpy", "npy": "numpy", "h5": "keras", "keras": "keras",
    "pb": "tensorflow", "tflite": "tflite", "msgpack": "flax", "pkl": "pickle", "joblib": "joblib",
}  # fmt: skip
_CODE = {"py", "ipynb", "sh", "js", "ts", "c", "cc", "cpp", "cu", "h", "go", "rs", "r", "jl", "jinja"}
_DOCUMENTS = {"md", "rst", "pdf", "html"}
_DATA = {"csv", "tsv", "parquet", "arrow", "jsonl", "tfrecord"}
_DOCUMENT_NAMES = ("license", "readme", "notice", "copying", "usage")
_PRECISIONS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "I8": "int8", "U8": "uint8"}
# What is saved beside a model while it is trained, and is no part of it.
_OF_TRAINING = ("optimizer", "scheduler", "rng_state", "training_args", "scaler")
_SCALES = ((10**15, "Q"), (10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


def media_type(path: str) -> str:
    """The type of the layer that is one file."""
    name = posixpath.basename(path).lower()
    extension = name.rpartition(".")[2] if "." in name else ""
    if extension in _FORMATS:
        kind = "weight"
    elif extension in _CODE:
        kind = "code"
    elif extension in _DATA:
        kind = "dataset"
    elif extension in _DOCUMENTS or name.startswith(_DOCUMENT_NAMES):
        kind = "doc"
    else:
        kind = "weight.config"
    return f"application/vnd.cncf.model.{kind}.v1.raw"


def config(
    row: VersionRow,
    entries: Sequence[FileEntry],
    recipes: Mapping[Digest, Recipe],
    hub_config: bytes | None,
    layers: Sequence[str],
) -> dict[str, Any]:
    """The configuration of a version. `hub_config`: the content of its config.json; `layers`: their SHA-256."""
    hub = _parsed(hub_config)
    architectures, family = hub.get("architectures"), hub.get("model_type")
    quantization = hub.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    weights = _weights(entries)
    counts = _parameters(weights, recipes)
    said = {
        "architecture": architectures[0] if isinstance(architectures, list) and architectures else None,
        "format": _format(weights),
        "paramSize": param_size(sum(counts.values())),
        "precision": _precision(counts),
        "quantization": method,
    }
    created_at = times.timestamp(row.created_at_ns).isoformat().replace("+00:00", "Z")
    descriptor = {"createdAt": created_at, "name": row.name, "version": row.version, "family": family}
    return {
        "descriptor": {key: value for key, value in descriptor.items() if isinstance(value, str)},
        "config": {key: value for key, value in said.items() if isinstance(value, str)},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{each}" for each in layers]},
    }


def param_size(count: int) -> str | None:
    """A number of parameters with one decimal and a letter for its scale, such as 22.7M; None for none."""
    for scale, letter in _SCALES:
        if count * 10 >= scale * 10:
            return f"{count / scale:.1f}".removesuffix(".0") + letter
    return str(count) if count else None


def _weights(entries: Sequence[FileEntry]) -> list[FileEntry]:
    """The files of the model itself: those of one format, since many repositories hold the same model in several."""
    by_format: dict[str, list[FileEntry]] = {}
    for file in entries:
        name = posixpath.basename(file.path).lower()
        kind = _FORMATS.get(name.rpartition(".")[2])
        if kind is not None and not name.startswith(_OF_TRAINING):
            by_format.setdefault(kind, []).append(file)
    return next((by_format[each] for each in dict.fromkeys(_FORMATS.values()) if each in by_format), [])


def _format(weights: Sequence[FileEntry]) -> str | None:
    return _FORMATS[weights[0].path.lower().rpartition(".")[2]] if weights else None


def _parameters(weights: Sequence[FileEntry], recipes: Mapping[Digest, Recipe]) -> Counter[str]:
    """How many numbers of each dtype the tensors hold."""
    counts: Counter[str] = Counter()
    for digest in dict.fromkeys(file.digest for file in weights):
        recipe = recipes.get(digest)
        for segment in recipe.segments if recipe is not None else ():
            if segment.name is not None and segment.dtype is not None and segment.shape is not None:
                counts[segment.dtype] += prod(segment.shape)
    return counts


def _precision(counts: Counter[str]) -> str | None:
    if not counts:
        return None
    return _PRECISIONS.get(next(iter(counts)), next(iter(counts)).lower()) if len(counts) == 1 else "mixed"


def _parsed(data: bytes | None) -> dict[str, Any]:
    try:
        document = parsed(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
