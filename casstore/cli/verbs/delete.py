"""casstore delete"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

import casstore
from casstore.cli import exits
from casstore.cli.arguments import complete_name, complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import (
    Bytes,
    age,
    as_text,
    hint,
    human_bytes,
    is_screen,
    plural,
    printable,
    say,
    show_fields,
    show_json,
    styled,
)
from casstore.cli.remotes import delete_there, remote_option
from casstore.cli.report import report_error
from casstore.cli.searching import is_pattern

_EXAMPLES = """\b
Examples:
  casstore delete bert:v1
  casstore delete bert:v1 bert:v2 --dry-run    what both together would free
  casstore delete bert:v1 bert:v2 --yes
  casstore undelete bert:v1                    brings it back, for some days
  casstore delete --all-versions-of bert --yes --now && casstore gc
  casstore delete bert:v1 --drop-aliases       also one that an alias means, such as bert@old
  casstore delete bert:v1 --remote && casstore remote gc
"""
_MAX_LISTED = 10


@click.command(epilog=_EXAMPLES)
@click.argument("tags", metavar="[TAG]...", shell_complete=complete_tag, nargs=-1)
@click.option(
    "--all-versions-of", "name", metavar="NAME", shell_complete=complete_name, help="Every version of this model."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go, and what that would free.")
@click.option("--now", is_flag=True, help="Delete for good, past the trash.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where there is no terminal to ask on.")
@click.option("--drop-aliases", is_flag=True, help="Delete their aliases, too; else a version that has any stays.")
@remote_option("Delete them in a remote, and leave what is here.")
@common_options
@pass_options
def delete(options: Options, /, tags: tuple[str, ...], name: str | None, remote: str | None, **how: bool) -> None:
    """Delete versions, each by its full tag.

    It shows what would go (size, age, labels, pins, aliases) and asks. Directories go at once. The versions go to the
    trash: `casstore undelete` brings one back, until `casstore gc` takes it for good, the days of trash_days later, or
    with --empty-trash. With --now their bytes go at the next `casstore gc`. One that an alias means stays, unless
    --drop-aliases is said.
    A version that others share bytes with can be deleted: the others keep what they need. Those of one model go in one
    step: where it is interrupted, all of them are gone or none. One that cannot be deleted is named, and the others go
    all the same. Exit code 3: some were deleted and some were not.
    """
    context, dry_run, now, yes = click.get_current_context(), how["dry_run"], how["now"], how["yes"]
    if not tags and name is None:
        raise click.UsageError("say what to delete: a TAG or more, or --all-versions-of NAME", context)
    if not yes and not dry_run and not sys.stdin.isatty():
        raise click.UsageError("delete asks first, and there is no terminal to ask on; add --yes", context)
    if remote is not None:
        if name is not None or now:
            raise click.UsageError("--remote takes tags, not --all-versions-of or --now", context)
        delete_there(options, remote, _distinct([*tags]), dry_run=dry_run, ask=not yes)
        return
    with options.open_store() as store:
        doomed = _distinct([*tags, *_versions_of(store, name)])
        if dry_run:
            for_good = now or _has_no_trash(store)
            _show_plan(options, store, doomed, for_good=for_good, may_drop=how["drop_aliases"])
            return
        refused: dict[str, Exception] = {}
        if not yes:
            names = _only_names(store, doomed)
            models, refused = _look(store, [tag for tag in doomed if tag not in names])
            doomed = [tag for tag in doomed if tag in models or tag in names]
            if doomed and not _confirm(list(models.values()), refused, len(doomed), may_drop=how["drop_aliases"]):
                raise click.ClickException("nothing was deleted")
        deleted, quarantined, failures = _delete(store, doomed, now=now, drop_aliases=how["drop_aliases"])
        failures = {**refused, **failures}
        for_good = now or _has_no_trash(store)
    if options.json:
        failed = [{"tag": tag, **exits.as_document(error)} for tag, error in failures.items()]
        show_json({"deleted": deleted, "quarantined": quarantined, "failed": failed})
    else:
        for tag in deleted:
            click.echo(f"deleted {printable(tag)}" if is_screen() else tag)
        for error in failures.values():
            report_error(error, as_json=False)
    for path in quarantined:
        hint(options, f"kept in {path}, since it was not the version's own")
    if deleted:
        hint(
            options,
            "`casstore gc` gives their space back"
            if for_good
            else "`casstore undelete` brings them back; `casstore gc --empty-trash` gives the space of all that is in "
            "the trash back at once",
        )
    if failures:
        codes = {exits.exit_code(error) for error in failures.values()}
        alone = codes.pop() if len(codes) == 1 else exits.ExitCode.FAILED
        raise click.exceptions.Exit(exits.ExitCode.PARTLY_DONE if deleted else alone)


def _distinct(tags: list[str]) -> list[str]:
    """Each once, as it was first typed: upper case makes no other tag."""
    found: dict[str, str] = {}
    for tag in tags:
        found.setdefault(tag.lower(), tag)
    return list(found.values())


def _versions_of(store: casstore.Store, name: str | None) -> list[str]:
    if name is None:
        return []
    models = [] if is_pattern(name) else store.list(name)
    if not models:
        store.get(name, pull=False)  # raises TagNotFound with the nearest name, and InvalidTag for a pattern
    return [str(model.tag) for model in models]


def _look(store: casstore.Store, tags: list[str]) -> tuple[dict[str, casstore.Model], dict[str, Exception]]:
    """The versions of those tags, and why others cannot be deleted."""
    models: dict[str, casstore.Model] = {}
    refused: dict[str, Exception] = {}
    for tag in tags:
        try:
            models[tag] = store.exact(tag)
        except casstore.CasstoreError as error:
            refused[tag] = error
    return models, refused


def _only_names(store: casstore.Store, tags: list[str]) -> list[str]:
    """Which of these are names here alone, as their bytes are in a remote; says so."""
    remotes = {str(each.tag): each.remote for each in store.elsewhere()}
    found = [tag for tag in tags if tag.lower() in remotes]
    for tag in found:
        say(f"  {printable(tag)}: only its name is here, and it stays in the remote {remotes[tag.lower()]}")
    return found


def _has_no_trash(store: casstore.Store) -> bool:
    return store.settings()["trash_days"] == "0"


def _show_plan(options: Options, store: casstore.Store, tags: list[str], *, for_good: bool, may_drop: bool) -> None:
    models = [store.exact(tag) for tag in tags]
    if not may_drop:
        _warn_of_aliases(models)
    usage = store.stats(tags)
    freed, later = usage.frees_bytes or 0, usage.frees_at_rewrite_bytes or 0
    if options.json:
        names = [str(model.tag) for model in models]
        show_json({"would_delete": names, "frees_bytes": freed, "frees_at_rewrite_bytes": later})
        return
    if is_screen():
        _list(models, may_drop=True)  # of which it has been said already
    show_fields({"versions": len(models), "frees": Bytes(freed), "frees.later": Bytes(later)})
    hint(
        options,
        f"frees: in all, with {'the next `casstore gc`' if for_good else '`casstore gc --empty-trash`, or in time'}; "
        "later: of that, what only `casstore gc --rewrite` frees now",
    )


def _confirm(models: list[casstore.Model], refused: Mapping[str, Exception], count: int, *, may_drop: bool) -> bool:
    """Show what would go, and ask."""
    for error in refused.values():
        say(f"not deleted: {printable(exits.message(error))}")
    if models:
        _list(models, may_drop=may_drop)
    question = "this version" if count == 1 else f"these {count:,} versions"
    return click.confirm(f"Delete {question}?", err=True)


def _list(models: list[casstore.Model], *, may_drop: bool) -> None:
    """Show versions with what may make one think again."""
    rows = [(str(m.tag), human_bytes(m.size), f"saved {age(m.created_at)}", as_text(m.labels, for_screen=True))
            for m in models[:_MAX_LISTED]]  # fmt: skip
    tags, sizes, ages, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    for tag, size, saved, labels in rows:
        say(f"  {tag:<{tags}}  {size:>{sizes}}  {saved:<{ages}}  {labels}".rstrip())
    if len(models) > _MAX_LISTED:
        more = sum(model.size for model in models[_MAX_LISTED:])
        say(f"  and {len(models) - _MAX_LISTED:,} more, {human_bytes(more)}")
    pinned = [str(model.tag) for model in models if model.is_pinned]
    if pinned:
        more_pinned = f" and {len(pinned) - _MAX_LISTED:,} more" if len(pinned) > _MAX_LISTED else ""
        text = f"{', '.join(pinned[:_MAX_LISTED])}{more_pinned}: pinned, so a user wants to keep it at hand"
        say(styled("warning: ", fg="yellow", bold=True) + text)
    if not may_drop:
        _warn_of_aliases(models)


def _warn_of_aliases(models: list[casstore.Model]) -> None:
    named = [f"{model.name}@{alias}, which means {model.tag}" for model in models for alias in model.aliases]
    if named:
        more_named = f" and {len(named) - _MAX_LISTED:,} more" if len(named) > _MAX_LISTED else ""
        text = f"{'; '.join(named[:_MAX_LISTED])}{more_named}: what has an alias goes only with --drop-aliases"
        say(styled("warning: ", fg="yellow", bold=True) + text)


def _delete(
    store: casstore.Store, tags: list[str], *, now: bool, drop_aliases: bool
) -> tuple[list[str], list[str], dict[str, Exception]]:
    deleted: list[str] = []
    quarantined: list[str] = []
    failures: dict[str, Exception] = {}
    pending = _by_model(tags)
    try:
        while pending:
            group = pending.pop(0)
            try:
                quarantined += store.delete(group, now=now, drop_aliases=drop_aliases)
                deleted += group
            except (casstore.CasstoreError, OSError) as error:
                if len(group) == 1:
                    failures[group[0]] = error
                else:  # none of them is deleted: see which can be
                    pending[:0] = [[tag] for tag in group]
    except KeyboardInterrupt as error:
        raise exits.Interrupted(f"interrupted; {plural(len(deleted), 'version')} of {len(tags)} deleted") from error
    return sorted(deleted, key=tags.index), quarantined, failures


def _by_model(tags: list[str]) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for tag in tags:
        found.setdefault(tag.partition(":")[0].lower(), []).append(tag)
    return list(found.values())
