"""Writes docs/api.md from the docstrings of the public names: `python docs/make_api.py`.

The docstrings have numpydoc's sections, without types: those stand in the signatures. tests/test_api.py holds the
docstrings to the signatures and this page to the docstrings.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import casstore
from casstore import models, safetensors

PAGE = Path(__file__).with_name("api.md")
# The order in which one meets them. What no group names comes under the last heading.
GROUPS = {
    "The store": ["Store", "Model", "Imported", "FileEntry", "Base", "Draft", "KeptDraft"],
    "Where versions came from": ["Parent", "Lineage", "Relative", "LikelyParent"],
    "Remotes": [
        "Remote", "RemoteModel", "Ref", "Pushed", "Pulled", "PulledFiles", "RemoteStatus", "RemoteGcReport", "OpenPush",
        "RemoteReport", "Elsewhere",
    ],
    "Tags and digests": ["Tag", "slug", "Digest"],
    "Reports": [
        "GcReport", "GcStep", "VerifyReport", "Damage", "RepairReport", "RebuildReport", "BackupReport", "AdoptReport",
        "Refused", "SyncReport", "InitReport", "Usage", "EncodingUsage",
    ],
    "Progress": ["Progress"],
}  # fmt: skip
# Called by the classes themselves, or by other parts of the package.
INTERNAL = {
    "Draft.take_from",
    "Draft.take_kept",
    "Tag.of_checked",
    "Model.being_written",
    "Model.saved",
    "Model.become",
    "Ref.pack",
    "Ref.unpack",
    "Ref.says_the_same_as",
}
_HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_INTRODUCTION = """\
# The Python interface

Written by `python docs/make_api.py` from the docstrings; change those. The names of the first part are in `casstore`,
those of the second, which are BentoML's, in `casstore.models`. The examples assume an open store with the version
`bert:v1`, a directory `out` with its files, `config.json` and `model.bin`, and at `remote_url` an empty
remote, `origin`.
"""


def sections(text: str | None) -> dict[str, str]:
    """A docstring by its headings; what stands before the first has the heading ""."""
    parts = _HEADING.split(inspect.cleandoc(text or ""))
    return {
        "": parts[0].strip(),
        **{name: body.strip("\n") for name, body in zip(parts[1::2], parts[2::2], strict=True)},
    }


def entries(section: str) -> dict[str, str]:
    """The names that a section explains, each with its text; names that share a line share the text."""
    found = {}
    for part in re.split(r"^(?=\S)", section, flags=re.MULTILINE):
        line, _, body = part.partition("\n")
        found.update(dict.fromkeys(line.split(", "), textwrap.dedent(body).strip()) if body else {})
    return found


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class has of its own, in their order."""
    for name, member in vars(kind).items():
        if name.startswith("_") or f"{kind.__name__}.{name}" in INTERNAL:
            continue
        if isinstance(member, (classmethod, staticmethod)):
            yield name, member.__func__
        elif isinstance(member, property) or inspect.isfunction(member):
            yield name, member


def fields(kind: type) -> dict[str, str]:
    """The fields of a dataclass or a named tuple, each with its type."""
    if dataclasses.is_dataclass(kind):
        return {each.name: str(each.type) for each in dataclasses.fields(kind)}
    types = {} if not hasattr(kind, "_fields") else kind.__annotations__
    return {name: getattr(type_, "__forward_arg__", str(type_)) for name, type_ in types.items()}


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a caller passes."""
    signature = inspect.signature(function)
    return {name: each for name, each in signature.parameters.items() if name not in ("self", "cls")}


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return ""
    is_plain = isinstance(parameter.default, (str, bool, int, tuple, type(None)))
    return f" = {parameter.default!r}" if is_plain else " = ..."


def _call(name: str, function: Callable[..., Any]) -> str:
    """A call with the names of its parameters, as in a heading."""
    shown, is_named = [], False
    for key, each in parameters(function).items():
        if each.kind is each.KEYWORD_ONLY and not is_named:
            shown.append("*")
            is_named = True
        mark = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        is_named = is_named or mark == "*"
        shown.append(mark + key)
    return f"`{name}({', '.join(shown)})`"


def _section(title: str, body: str, types: dict[str, str]) -> str:
    if title == "Examples":
        return f"```pycon\n{body}\n```\n"
    lines: dict[str, list[str]] = {}
    for name, text in entries(body).items():
        lines.setdefault(text, []).append(f"`{name}`" + (f" (`{types[name]}`)" if name in types else ""))
    listed = "\n".join(
        textwrap.fill(f"* {', '.join(names)}: {text}", 120, subsequent_indent="  ", break_on_hyphens=False,
                      break_long_words=False)
        for text, names in lines.items()
    )  # fmt: skip
    return f"**{title}**\n\n{listed}\n"


def _explained(text: str | None, types: dict[str, str]) -> str:
    """A docstring as Markdown, with the types that the signature has."""
    found = sections(text)
    return "\n".join([found.pop("") + "\n", *(_section(title, body, types) for title, body in found.items())])


def _of_function(name: str, function: Callable[..., Any], level: int) -> str:
    types = {key: f"{each.annotation}{_default(each)}" for key, each in parameters(function).items()}
    return f"{'#' * level} {_call(name, function)}\n\n{_explained(function.__doc__, types)}"


def _of_class(name: str, kind: type) -> str:
    types = fields(kind)
    # What tells of its parameters is made by calling it.
    is_called = "Parameters" in sections(kind.__doc__)
    heading = _call(name, kind) if is_called else f"`{name}`"
    if is_called and not types:
        types = {key: f"{each.annotation}{_default(each)}" for key, each in parameters(kind).items()}
    parts = [f"### {heading}\n\n{_explained(kind.__doc__, types)}"]
    for each, member in members(kind):
        if isinstance(member, property):
            type_ = member.fget.__annotations__["return"] if member.fget else ""
            parts.append(f"#### `{name}.{each}`: `{type_}`\n\n{_explained(member.__doc__, {})}")
        else:
            parts.append(_of_function(f"{name}.{each}", member, 4))
    return "\n".join(parts)


def _of(name: str, value: Any) -> str:
    return _of_class(name, value) if isinstance(value, type) else _of_function(name, value, 3)


def _settings() -> str:
    rows = "\n".join(
        f"| `{key}` | `{each.default}` | {each.takes} | {each.meaning} |" for key, each in casstore.SETTINGS.items()
    )
    text = "`casstore.SETTINGS` maps each key to its `default`, what it `takes` and its `meaning`, in words."
    return f"## Settings\n\n{text}\n\n| key | default | takes | meaning |\n|---|---|---|---|\n{rows}\n"


def _errors() -> str:
    """The errors by how they derive from one another."""
    lines: list[str] = []

    def add(kind: type, depth: int) -> None:
        text = " ".join(sections(kind.__doc__)[""].split())
        lines.append(f"{'  ' * depth}* `{kind.__name__}`: {text}")
        for name, note in entries(sections(kind.__doc__).get("Attributes", "")).items():
            lines.append(f"{'  ' * (depth + 1)}* `.{name}`: {' '.join(note.split())}")
        for name in casstore.__all__:
            below = getattr(casstore, name)
            if isinstance(below, type) and below.__bases__[0] is kind:
                add(below, depth + 1)

    add(casstore.CasstoreError, 0)
    listed = "\n".join(lines)
    return f"## Errors\n\nEvery error that casstore raises on purpose, as they derive from one another.\n\n{listed}\n"


def names() -> dict[str, list[str]]:
    """What stands under which heading."""
    errors = {
        name for name in casstore.__all__
        if isinstance(value := getattr(casstore, name), type) and issubclass(value, casstore.CasstoreError)
    }  # fmt: skip
    placed = {name for group in GROUPS.values() for name in group} | errors | {"SETTINGS", "__version__"}
    rest = [name for name in casstore.__all__ if name not in placed]
    return {**GROUPS, "More": rest} if rest else dict(GROUPS)


def page() -> str:
    """The text of docs/api.md."""
    parts = [_INTRODUCTION]
    for title, group in names().items():
        parts += [f"## {title}\n", *(_of(name, getattr(casstore, name)) for name in group)]
    parts += [f"## As safetensors has it\n\n{inspect.cleandoc(safetensors.__doc__ or '')}\n"]
    parts += [_of(f"safetensors.{name}", getattr(safetensors, name)) for name in safetensors.__all__]
    parts += [_settings(), _errors(), f"## BentoML's calls\n\n{inspect.cleandoc(models.__doc__ or '')}\n"]
    parts += [_of(f"models.{name}", getattr(models, name)) for name in models.__all__]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
