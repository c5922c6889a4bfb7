"""Versions of a remote on the command line: what `list`, `show` and `delete` do with --remote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import click

import casstore
from casstore.cli import exits
from casstore.cli.options import Options
from casstore.cli.output import (
    Bytes,
    Column,
    age,
    file_name,
    hint,
    human_bytes,
    is_screen,
    plural,
    printable,
    say,
    show_fields,
    show_json,
    show_table,
    styled,
    utc,
)
from casstore.cli.report import report_error
from casstore.cli.rows import show_rows
from casstore.late import LateModule

if TYPE_CHECKING:
    from click import shell_completion
else:
    shell_completion = LateModule("click.shell_completion")

_COLUMNS = (
    Column("TAG", narrow=((0, 48),)),
    Column("SIZE", right=True, narrow=((7, 0),)),
    Column("CREATED", fixed=True, narrow=((3, 16), (4, 10), (6, 0))),
    Column("LABELS", narrow=((1, 12), (5, 0))),
    Column("HERE", fixed=True),
)
_FILES = (Column("FILE"), Column("SIZE", right=True), Column("BLAKE3"), Column(""))
_MAX_LISTED = 10
_NONE_FITS = "no version fits; `casstore list --remote` shows what there is"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def complete_remote(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[shell_completion.CompletionItem]:
    """Names of the store's remotes that begin like `incomplete`, for a shell's completion."""
    try:
        with casstore.Store(ctx.ensure_object(Options).home, create=False) as store:
            names = list(store.remotes())
    except (casstore.CasstoreError, OSError):
        return []
    return [shell_completion.CompletionItem(name) for name in names if name.startswith(incomplete)]


def remote_option(meaning: str) -> Callable[[Any], Any]:
    """The option --remote, with which a verb is about the versions of a remote; its value is "" where none is named."""
    return click.option(
        "--remote",
        "remote",
        metavar="[REMOTE]",
        is_flag=False,
        flag_value="",
        default=None,
        shell_complete=complete_remote,
        help=f"{meaning}  [default: the store's default remote]",
    )


def created(ref: casstore.Ref) -> datetime:
    """When the version was saved."""
    return _EPOCH + timedelta(microseconds=ref.created_at_ns // 1000)


def list_there(options: Options, remote: str, wanted: Mapping[str, Any], columns: Sequence[str]) -> None:
    """List versions of a remote, newest first or as is wanted, and say which of them are saved here."""
    with options.open_store() as store, store.remote(remote or None) as there:
        url = there.url
        if columns:
            found: Sequence[Any] = there.table(**wanted, columns=columns)
            show_rows(options, found, url=url)
        else:
            found = there.list(**wanted)
            states = [_state(store, ref) for ref in found]
            _show(options, found, states, url)
    if not found:
        _hint_at_none(options, url, wanted)


def _hint_at_none(options: Options, url: str, wanted: Mapping[str, Any]) -> None:
    is_all = all(not each for each in wanted.values())
    hint(options, f"nothing is in {url} yet; `casstore push TAG` brings a version there" if is_all else _NONE_FITS)


def _show(options: Options, refs: Sequence[casstore.Ref], states: Sequence[str], url: str) -> None:
    pairs = list(zip(refs, states, strict=True))
    if options.json:
        show_json({"url": url, "versions": [_document(*pair) for pair in pairs]})
    elif refs:
        rows = [(ref.tag, Bytes(ref.size), created(ref), ref.labels, state) for ref, state in pairs]
        show_table(_COLUMNS, rows)
        if "" in states:
            hint(options, "`casstore pull TAG` fetches what is not here")


def count_there(options: Options, remote: str, wanted: Mapping[str, Any]) -> int:
    """How many versions of a remote fit."""
    with options.open_store() as store, store.remote(remote or None) as there:
        found = len(there.list(**wanted))
        if not found:
            _hint_at_none(options, there.url, wanted)
        return found


def _state(store: casstore.Store, ref: casstore.Ref) -> str:
    """Whether that version is saved here: "yes", "other" for another under its tag, or an empty text."""
    if not store.exists(ref.tag):
        return ""
    return "yes" if store.exact(ref.tag).digest == ref.digest else "other"


def _document(ref: casstore.Ref, state: str) -> dict[str, Any]:
    return {
        "tag": str(ref.tag), "name": ref.tag.name, "version": ref.tag.version, "size_bytes": ref.size,
        "created_at": utc(created(ref)), "digest": str(ref.digest), "labels": dict(ref.labels),
        "is_here": state == "yes", "is_different_here": state == "other",
    }  # fmt: skip


def show_there(options: Options, remote: str, tag: str) -> None:
    """Show all about one version of a remote."""
    with options.open_store() as store, store.remote(remote or None) as there:
        model = there.get(tag)
        is_here = store.exists(model.tag) and store.exact(model.tag).digest == model.digest
    show_remote_model(options, model, is_here=is_here)


def show_remote_model(options: Options, model: casstore.RemoteModel, *, is_here: bool) -> None:
    """Show all about one version of a remote."""
    url = model.url
    if options.json:
        show_json({
            "tag": str(model.tag), "name": model.tag.name, "version": model.tag.version, "size_bytes": model.size,
            "created_at": utc(model.created_at), "digest": str(model.digest), "labels": model.labels,
            "metadata": model.metadata, "url": url, "is_here": is_here,
            "files": [{"path": file_name(file.path), "size_bytes": file.size, "digest": str(file.digest),
                       "executable": file.executable} for file in model.files],
        })  # fmt: skip
        return
    show_fields({
        "tag": model.tag, "size": Bytes(model.size), "files": len(model.files), "created": model.created_at,
        "digest": model.digest, "remote": url, "here": "yes" if is_here else "no",
        **{f"label.{key}": value for key, value in model.labels.items()},
        **{f"metadata.{key}": str(value) for key, value in model.metadata.items()},
    })  # fmt: skip
    rows = [(file_name(f.path), Bytes(f.size), f.digest, "executable" if f.executable else "") for f in model.files]
    if is_screen():
        click.echo()
        show_table(_FILES, rows)
    else:
        show_table((), [("file", *row[:3]) for row in rows])


def delete_there(options: Options, remote: str, texts: Sequence[str], *, dry_run: bool, ask: bool) -> None:
    """Delete versions of a remote, each by its tag; with `ask`, once the user has seen what would go."""
    with options.open_store() as store, store.remote(remote or None) as there:
        if dry_run or ask:
            found = {ref.tag: ref for ref in there.list()}
            refs = [_found(found, text, there.url) for text in texts]
            if dry_run:
                _plan(options, refs, there.url)
                return
            _list(store, refs)
            if not click.confirm(f"Delete {plural(len(refs), 'version')} from {printable(there.url)}?", err=True):
                raise click.ClickException("nothing was deleted")
        deleted, failures = _delete(there, texts)
    if options.json:
        failed = [{"tag": text, **exits.as_document(error)} for text, error in failures.items()]
        show_json({"deleted": deleted, "failed": failed})
    else:
        for text in deleted:
            click.echo(f"deleted {printable(text)}" if is_screen() else text)
        for error in failures.values():
            report_error(error, as_json=False)
    if deleted:
        hint(options, "`casstore remote gc` gives their space back there")
    if failures:
        codes = {exits.exit_code(error) for error in failures.values()}
        alone = codes.pop() if len(codes) == 1 else exits.ExitCode.FAILED
        raise click.exceptions.Exit(exits.ExitCode.PARTLY_DONE if deleted else alone)


def _found(refs: Mapping[casstore.Tag, casstore.Ref], text: str, url: str) -> casstore.Ref:
    try:
        return refs[casstore.Tag.parse(text)]
    except KeyError:
        raise casstore.TagNotFound(f"{text} is not in {url}; `casstore list --remote` shows what is") from None


def _plan(options: Options, refs: Sequence[casstore.Ref], url: str) -> None:
    if options.json:
        show_json({"url": url, "would_delete": [str(ref.tag) for ref in refs]})
        return
    for ref in refs:
        click.echo(f"{ref.tag} would be deleted" if is_screen() else str(ref.tag))


def _list(store: casstore.Store, refs: Sequence[casstore.Ref]) -> None:
    """Show what would go, and what nobody here could bring back."""
    rows = [(str(ref.tag), human_bytes(ref.size), f"saved {age(created(ref))}") for ref in refs[:_MAX_LISTED]]
    tags, sizes = (max(len(row[column]) for row in rows) for column in (0, 1))
    for tag, size, saved in rows:
        say(f"  {tag:<{tags}}  {size:>{sizes}}  {saved}")
    if len(refs) > _MAX_LISTED:
        say(f"  and {len(refs) - _MAX_LISTED:,} more, {human_bytes(sum(ref.size for ref in refs[_MAX_LISTED:]))}")
    lost = [str(ref.tag) for ref in refs if _state(store, ref) != "yes"]
    if lost:
        more = f" and {len(lost) - _MAX_LISTED:,} more" if len(lost) > _MAX_LISTED else ""
        warning = styled("warning: ", fg="yellow", bold=True)
        say(f"{warning}{', '.join(lost[:_MAX_LISTED])}{more}: not saved here, so this store cannot bring it back")


def _delete(there: casstore.Remote, texts: Sequence[str]) -> tuple[list[str], dict[str, Exception]]:
    deleted: list[str] = []
    failures: dict[str, Exception] = {}
    try:
        for text in texts:
            try:
                deleted += there.delete(text)
            except (casstore.CasstoreError, OSError) as error:
                failures[text] = error
    except KeyboardInterrupt as error:
        raise exits.Interrupted(f"interrupted; {plural(len(deleted), 'version')} of {len(texts)} deleted") from error
    return deleted, failures
