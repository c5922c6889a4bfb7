"""What files say that a model came from: an adapter's configuration, a model card, the cache of huggingface_hub.

Nothing rests on it, and a stranger may have written it: what cannot be read says nothing.

https://huggingface.co/docs/hub/model-cards#specifying-a-base-model,
https://huggingface.co/docs/peft/package_reference/config
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from casstore.actions.sources import hugging_face
from casstore.actions.sources.homes import homes_above
from casstore.actions.sources.source import Source
from casstore.errors import InvalidSource
from casstore.storage import bounded_yaml, files
from casstore.storage.layout import Layout

_ADAPTER, _CARD = "adapter_config.json", "README.md"
_MOST_BYTES = 1 << 20  # of either file, as far as it is read
_MOST_BASES = 64
_FRONT_MATTER = re.compile(rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
# As huggingface_hub checks it: ORG/NAME, or a NAME alone.
_REPOSITORY = re.compile(r"(?!.*(?:--|\.\.))(?:[A-Za-z0-9][-._A-Za-z0-9]*/)?[A-Za-z0-9][-._A-Za-z0-9]*")
_MOST_REPOSITORY_CHARACTERS = 96
_RELATIONS = {"finetune", "adapter", "quantized", "merge"}


class Origin(NamedTuple):
    """What a model came from. `parts`: of a version of this store, its name and its version; else `uri` says it."""

    relation: str
    uri: str = ""
    parts: tuple[str, str] | None = None


def origins(layout: Layout, source: Source, metadata: Mapping[str, Any]) -> Iterator[Origin]:
    """What the files at the top of a source, and metadata as `from_hf` records it, say that a model came from."""
    paths = {file.path: file.disk_path for file in source.files if file.path in (_ADAPTER, _CARD)}
    copied = metadata.get("huggingface")
    if isinstance(copied, Mapping):
        yield from _copied(copied)
    if _ADAPTER in paths:
        config = _parsed(json.loads, _read(paths[_ADAPTER]))
        if isinstance(config, dict):
            yield from _origin(layout, config.get("base_model_name_or_path"), "adapter", config.get("revision"))
    if _CARD in paths:
        head = _FRONT_MATTER.match(_read(paths[_CARD]))
        card = _parsed(bounded_yaml.load, head[1]) if head else None
        if isinstance(card, dict):
            yield from _of_card(layout, card, is_adapter=_ADAPTER in paths)


def _copied(origin: Mapping[str, Any]) -> Iterator[Origin]:
    repository, revision, kind = (origin.get(key) for key in ("repo_id", "revision", "repo_type"))
    if _is_repository(repository):
        prefix = f"{kind}s/" if kind in ("dataset", "space") else ""
        yield Origin("copy", f"hf://{prefix}{repository}{_at(revision)}")


def _of_card(layout: Layout, card: Mapping[Any, Any], *, is_adapter: bool) -> Iterator[Origin]:
    said = card.get("base_model")
    bases = said if isinstance(said, list) else [said]
    relation = card.get("base_model_relation")
    if not isinstance(relation, str) or relation not in _RELATIONS:
        relation = "merge" if len(bases) > 1 else "adapter" if is_adapter else "finetune"
    for each in bases[:_MOST_BASES]:
        yield from _origin(layout, each, relation)


def _origin(layout: Layout, said: Any, relation: str, revision: Any = None) -> Iterator[Origin]:
    """What a model calls its base: a repository of the hub, or a path, of which nothing is recorded but what it means
    elsewhere too."""
    if not isinstance(said, str) or "\0" in said:
        return
    with contextlib.suppress(OSError, ValueError):  # a name that no file system can have
        parts = _version_at(layout, said)
        if parts is not None:
            yield Origin(relation, parts=parts)
            return
        if os.path.isabs(said) or os.path.isdir(said):
            with contextlib.suppress(InvalidSource):
                for copied in _copied(hugging_face.origin(Path(said))):
                    yield Origin(relation, copied.uri)
            return
    if _is_repository(said):
        yield Origin(relation, f"hf://{said}{_at(revision)}")


def _version_at(layout: Layout, path: str) -> tuple[str, str] | None:
    """The name and the version whose directory in this store that is, or is in."""
    if os.sep not in path:
        return None
    own = Path(os.path.realpath(layout.home))
    for home, parts in homes_above(Path(path)):
        if home == own and len(parts) >= 3 and parts[0] == layout.models.name:
            return parts[1], parts[2]
    return None


def _is_repository(said: Any) -> bool:
    is_short = isinstance(said, str) and len(said) <= _MOST_REPOSITORY_CHARACTERS
    return is_short and _REPOSITORY.fullmatch(said) is not None


def _at(revision: Any) -> str:
    is_sound = isinstance(revision, str) and re.fullmatch(r"[-._/A-Za-z0-9]{1,256}", revision) is not None
    return f"@{revision}" if is_sound else ""


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError), files.open_regular(path) as descriptor:
        return os.read(descriptor, _MOST_BYTES)
    return b""


def _parsed(parse: Any, text: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return parse(text)
    return None
