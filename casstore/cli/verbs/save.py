"""casstore save"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

import casstore
from casstore.cli.arguments import as_text, complete_tag, parse_pairs
from casstore.cli.describe import summary
from casstore.cli.exits import ExitCode, Interrupted
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.order import path_after_tag
from casstore.cli.output import (
    Bytes,
    hint,
    human_bytes,
    is_screen,
    plural,
    printable,
    say,
    show_json,
    show_table,
    styled,
)
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore save bert out/                      a generated version
  casstore save bert:v1 out/ -l stage=dev -m accuracy=0.93 -m 'tags=["en"]'
  casstore save bert:v1.1 out/ -m commit=7e10 -m lr:=3e-4        text, then a number
  casstore save bert:v2 out/ --base bert:v1 --move
  casstore save chat:v2 out/ --parent chat:v1=finetune --parent hf://org/llama@abc --capture
  casstore save meta-llama/Llama-3 out/ --slug                   as meta-llama--llama-3
  casstore save run out/ --no-materialize      a checkpoint of many: packed at once
  casstore save tiny:v1 model.gguf             a single file
  casstore save minilm --from-hf ~/.cache/huggingface/hub/models--org--minilm/snapshots/c9745ed...
  casstore save bert:v4 --draft 0k3f9w2d5m     what could not be saved, and is kept
  casstore save bert out/ --exclude '*.log' --exclude 'checkpoint-*/'
  tag=$(casstore save -q bert out/)            for scripts: the tag alone
"""
_MOST_NAMED = 5
_RELATION = re.compile(r"[a-z]([-._a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class _Asked:
    """What the options of the command say."""

    labels: tuple[str, ...]
    metadata: tuple[str, ...]
    metadata_file: IO[str] | None
    module: str
    frameworks: tuple[str, ...]
    base: str | None
    parents: tuple[str, ...]
    no_materialize: bool
    move: bool
    from_hf: bool
    exclude: tuple[str, ...]
    no_ignore: bool
    allow_empty: bool
    as_slug: bool
    exist_ok: bool
    capture: bool
    durability: str | None


@click.command(epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path), required=False)
@click.option(
    "--draft",
    "draft_id",
    metavar="ID",
    help="In place of PATH: a draft that was kept when its saving failed, with its labels, metadata and so on; see "
    "`casstore drafts`.",
)
@click.option("-l", "--label", "labels", metavar="K=V", multiple=True, help="A label, text to text. Repeatable.")
@click.option(
    "-m",
    "--metadata",
    metavar="K=V",
    multiple=True,
    help="A metadata entry. V is text, unless it is a number in the form in which JSON prints it, true, false, or JSON "
    "in brackets or quotes. K:=V takes any JSON, such as lr:=3e-4 or note:=null. Repeatable.",
)
@click.option(
    "--metadata-file",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="Metadata from a JSON object in a file, - for stdin; -m adds to it.",
)
@click.option("--module", metavar="M", default="", help="The Python module that loads it, such as transformers.")
@click.option(
    "--framework",
    "frameworks",
    metavar="NAME=VERSION",
    multiple=True,
    help="A package it was made with; the first is the framework. Repeatable.",
)
@click.option(
    "--base",
    metavar="TAG",
    shell_complete=complete_tag,
    help="The version it comes from: what changed since is stored as the difference.  "
    "[default: the newest of that name]",
)
@click.option(
    "--parent",
    "parents",
    metavar="TAG[=RELATION]",
    multiple=True,
    shell_complete=complete_tag,
    help="What it came from: a version, or a URI such as hf://org/name@rev or NAME@sha256:DIGEST, and how, such as "
    "finetune, adapter, quantized, merge or dataset. Repeatable.  [default: the base, and what adapter_config.json and "
    "a model card say]",
)
@click.option(
    "--no-materialize",
    is_flag=True,
    help="Make no directory until one is asked for; all that is new is encoded and packed at once, as gc would later.",
)
@click.option(
    "--move",
    is_flag=True,
    help="Take the files over instead of copying them: they are removed from PATH, and PATH too if nothing else is in "
    "it. What links lead to stays, and so does a model.yaml. Refused where files may not be removed, and for a "
    "snapshot in the cache of huggingface_hub.",
)
@click.option(
    "--from-hf",
    is_flag=True,
    help="PATH is a snapshot in the cache of huggingface_hub (.../models--ORG--NAME/snapshots/REVISION): its links are "
    "followed, and repository and revision go into the metadata.",
)
@click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Leave out what matches, as in a .gitignore: '*.log', 'checkpoints/', '/top.txt'. Repeatable.",
)
@click.option(
    "--no-ignore",
    is_flag=True,
    help="Leave out only what --exclude names, not .git, __pycache__, .cache/huggingface and what PATH/.casstoreignore "
    "names.",
)
@click.option("--allow-empty", is_flag=True, help="Save a directory without files, for its metadata alone.")
@click.option(
    "--slug",
    "as_slug",
    is_flag=True,
    help="Turn TAG into a valid tag if it is not one: meta-llama/Llama-3 becomes meta-llama--llama-3.",
)
@click.option(
    "--exist-ok",
    is_flag=True,
    help="Fine if TAG is saved already with the same files, labels and so on: then nothing is saved.",
)
@click.option(
    "--capture",
    is_flag=True,
    help="Record as metadata, under capture, the git commit of the working directory and whether it is dirty, the "
    "command line, the host, and the versions of Python and of installed packages. No environment; arguments that "
    "look like secrets are left out, as far as that can be told.",
)
@click.option(
    "--durability",
    type=click.Choice(["full", "relaxed"]),
    help="full: survives a power cut once saved; relaxed: faster.  [default: the store's setting]",
)
@common_options
@pass_options
def save(options: Options, /, tag: str, path: Path | None, draft_id: str | None, **given: Any) -> None:
    """Save the directory or file at PATH as TAG.

    TAG is name:version, or a name alone for a generated version. A saved version never changes: saving a tag
    that exists is an error (exit code 13), unless it is the same with --exist-ok. Either everything is saved or
    nothing is. Exit code 3: it is saved, and --move has left files where they were.

    Left out of a directory, and named, are .git, __pycache__, .cache/huggingface, and what the patterns in its
    .casstoreignore match, which are those of a .gitignore.
    """
    asked = _Asked(**given)
    if asked.as_slug:
        tag = casstore.slug(tag)
    if draft_id is None:
        path = path_after_tag(click.get_current_context(), tag, path)
    else:
        _check_draft(path, has_more=asked.from_hf or asked.capture or bool(asked.module or asked.frameworks))
    labels = parse_pairs("--label", asked.labels)
    metadata = {**_read_metadata(asked.metadata_file), **_parse_metadata(asked.metadata)}
    context = _context(asked.frameworks)
    for key, value in metadata.items():
        if isinstance(value, str) and _is_number(value):
            hint(options, f"{key}={value} is kept as text; for a number write -m {key}:={value}")
    with options.open_store(create=path is not None) as store, progress_bar(options) as progress:
        if path is None:
            model = store.save_draft(
                draft_id or "", tag, labels=labels, metadata=metadata, base=asked.base,
                parents=_parents(asked.parents), durability=asked.durability,
                materialize=False if asked.no_materialize else None, exist_ok=asked.exist_ok, progress=progress,
            )  # fmt: skip
            _show(options, model, None, None)
            return
        draft = store.create(
            tag,
            labels=labels,
            metadata=metadata,
            context=context,
            module=asked.module,
            base=asked.base,
            parents=_parents(asked.parents),
            capture=asked.capture,
            durability=asked.durability,
            materialize=not asked.no_materialize,
            exist_ok=asked.exist_ok,
            progress=progress,
        )
        try:
            with draft:
                draft.take_from(
                    path, move=asked.move, allow_empty=asked.allow_empty, from_hf=asked.from_hf, exclude=asked.exclude,
                    ignore=not asked.no_ignore,
                )  # fmt: skip
        except KeyboardInterrupt as error:
            # It may have come just after the one moment from which on the version is there.
            if str(draft.tag) in store.tags():
                raise Interrupted(f"interrupted, but {draft.tag} was saved already") from error
            raise Interrupted("interrupted; nothing was saved") from error
        model = draft.model
    _show(options, model, draft, path if asked.move else None)
    if draft.left_behind:
        raise click.exceptions.Exit(ExitCode.PARTLY_DONE)


def _parents(given: tuple[str, ...]) -> list[str | tuple[str, str]] | None:
    """TAG or TAG=RELATION, where what follows the last = is a relation if it can be one; None where none is given."""
    parents: list[str | tuple[str, str]] = []
    for each in map(as_text, given):
        what, equals, relation = each.rpartition("=")
        parents.append((what, relation) if equals and what and _RELATION.fullmatch(relation) else each)
    return parents or None


def _check_draft(path: Path | None, *, has_more: bool) -> None:
    """`has_more`: what a draft has of its own is given too. Raises click.UsageError."""
    context = click.get_current_context()
    if path is not None:
        raise click.UsageError("give a PATH, or a draft with --draft, not both", context)
    if has_more:
        raise click.UsageError(
            "--module, --framework, --from-hf and --capture do not go with --draft, which has its own", context
        )


def _show(options: Options, model: casstore.Model, draft: casstore.Draft | None, moved: Path | None) -> None:
    """Say what was saved. `draft`: what it came of, where it was not a kept one. `moved`: what it was taken from."""
    is_new = draft is None or draft.is_new
    left_behind = () if draft is None else draft.left_behind
    left_out = () if draft is None else draft.left_out
    if options.json:
        new_bytes = {} if draft is None else {"new_bytes": draft.new_bytes}
        left = {"left_out": list(left_out), "left_behind": list(left_behind)}
        show_json({**summary(model), "is_new": is_new, **new_bytes, **left})
    elif options.quiet:
        click.echo(str(model.tag))
    elif is_screen() and not is_new:
        gone = "" if moved is None or os.path.lexists(moved) else f"; {printable(str(moved))} is gone, as --move asks"
        click.echo(f"{model.tag} is saved already, the very same{gone or '; nothing was changed'}")
    elif is_screen():
        new = ""
        if draft is not None and model.size:
            new = f", {human_bytes(draft.new_bytes) if draft.new_bytes else 'none'} of it new"
        is_gone = moved is not None and not os.path.lexists(moved)
        where = f"; taken over, and gone from {printable(str(moved))}" if is_gone else ""
        click.echo(f"saved {model.tag}: {plural(model.file_count, 'file')}, {human_bytes(model.size)}{new}{where}")
    else:
        show_table((), [(str(model.tag), Bytes(model.size), model.file_count)])
    if left_behind and not options.json:
        text = f"saved, but not taken away, and still there: {_first(left_behind)}"
        say(styled("warning: ", fg="yellow", bold=True) + text)
    if left_out and not (options.json or options.quiet):
        say(f"note: left out {_first(left_out)} (see --exclude and --no-ignore)")
    hint(
        options,
        f"open it with `casstore path {model.tag}`, or in Python: "
        f'casstore.Store({"" if options.home is None else repr(options.home)}).get("{model.tag}").path',
    )


def _first(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MOST_NAMED:,} more" if len(paths) > _MOST_NAMED else ""
    return printable(", ".join(paths[:_MOST_NAMED])) + more


def _read_metadata(file: IO[str] | None) -> dict[str, Any]:
    if file is None:
        return {}
    context = click.get_current_context()
    try:
        document = json.load(file, parse_float=_finite)
    except _TooLarge as error:
        raise click.UsageError(f"--metadata-file {file.name}: {error}", context) from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--metadata-file {file.name} is not JSON: {error}", context) from error
    if not isinstance(document, dict):
        raise click.UsageError(f"--metadata-file {file.name} holds no JSON object, such as {{...}}", context)
    return document


def _parse_metadata(pairs: tuple[str, ...]) -> dict[str, Any]:
    """K=V as text or what is plainly JSON, K:=V as JSON. Raises click.UsageError."""
    metadata: dict[str, Any] = {}
    for name, text in parse_pairs("--metadata", pairs).items():
        key = name.removesuffix(":")
        if key in metadata or not key:
            problem = f"gives {key!r} twice" if key else f"takes KEY:=JSON, not {name}={text!r}"
            raise click.UsageError(f"--metadata {problem}", click.get_current_context())
        metadata[key] = _as_meant(key, text) if key == name else _as_json(key, text)
    return metadata


def _as_meant(key: str, text: str) -> Any:
    """JSON in brackets or quotes, true, false, and a number that is written as JSON writes it; all else is text.

    So a Git hash such as 7e10 and a version such as 1.10 stay what they are.
    """
    try:
        value = json.loads(text, parse_float=_finite)
    except _TooLarge as error:
        if text.lstrip()[0] in "[{":
            raise click.UsageError(f"--metadata {key}={text}: {error}", click.get_current_context()) from error
        return text
    except (ValueError, RecursionError):
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text
    is_quoted = isinstance(value, str | list | dict)
    return value if is_quoted or (value is not None and json.dumps(value) == text) else text


def _is_number(text: str) -> bool:
    try:
        return isinstance(json.loads(text), int | float)
    except (ValueError, RecursionError):
        return False


def _as_json(key: str, text: str) -> Any:
    try:
        return json.loads(text, parse_float=_finite)
    except _TooLarge as error:
        raise click.UsageError(f"--metadata {key}:={text}: {error}", click.get_current_context()) from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(
            f"--metadata {key}:={text} is not JSON ({error}); for text write {key}={text}", click.get_current_context()
        ) from error


class _TooLarge(ValueError):
    """A number of which Python would make an infinity."""


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _TooLarge(f"the number {text} is too large; put it in quotes to keep it as text, or write Infinity")
    return number


def _context(frameworks: tuple[str, ...]) -> dict[str, Any]:
    versions = parse_pairs("--framework", frameworks)
    return {"framework_name": next(iter(versions)), "framework_versions": versions} if versions else {}
