"""casstore forget"""

from __future__ import annotations

import sys
from typing import Any

import click

import casstore
from casstore.cli.arguments import complete_name
from casstore.cli.keeping import keep_options, rules_of
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import (
    Bytes,
    Column,
    age,
    hint,
    human_bytes,
    is_screen,
    plural,
    printable,
    say,
    show_json,
    show_table,
    styled,
    utc,
)

_EXAMPLES = """\b
Examples:
  casstore forget bert --keep-last 5 --dry-run            what would go, and why the others stay
  casstore forget bert --keep-last 5 --keep-best metrics.f1:max:3 --keep-daily 7
  casstore forget 'run-*' --keep-within 14d --keep-label keep=yes --yes
  casstore forget run-7 --keep-every metadata.step:1000 --keep-last 1
  casstore forget --policies --dry-run                    what the stored policies would do
"""
# Where the screen is narrow: reasons are cut, the sizes go, then the ages.
_COLUMNS = (
    Column("", fixed=True, narrow=((0, 6),)),
    Column("TAG", fixed=True),
    Column("AGE", fixed=True, narrow=((3, 0),)),
    Column("SIZE", right=True, narrow=((2, 0),)),
    Column("FREES", right=True, fixed=True),
    Column("WHY", narrow=((1, 24),)),
)


@click.command("forget", epilog=_EXAMPLES)
@click.argument("names", metavar="[NAME|GLOB]...", nargs=-1, shell_complete=complete_name)
@keep_options
@click.option("--policies", is_flag=True, help="Go by the stored policies, for these names or all that they match.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where there is no terminal to ask on.")
@common_options
@pass_options
@click.pass_context
def forget(
    context: click.Context, options: Options, /, names: tuple[str, ...], dry_run: bool, yes: bool, **how: Any
) -> None:
    """Delete the versions of names that no rule keeps.

    It shows each version with KEEP or FORGET, why, and what comes back with it, and asks. A version stays that any of
    the rules keeps. The newest version of a name stays always, and so does one that is pinned or has an alias.

    --keep-within counts from now. Hours, days, weeks, months and years begin in UTC. A version that is newer than now,
    as where a clock was ahead, is kept by every rule that goes by age. metrics.f1 is the number metrics.f1 in the
    metadata, or else f1; params.x likewise, and metadata.PATH is just that.

    The others go to the trash, from where `casstore undelete` brings them back; their space comes back when gc takes
    them from there. What several of them need comes back with the last of them, so that the column FREES adds up.
    Those of one name go in one step. Rules that keep nothing of a name are refused.

    In a pipe: keep or forget, tag, UTC time, bytes, bytes freed, and the reasons.
    """
    rules, by_policies = rules_of(how), bool(how["policies"])
    if not names and not by_policies:
        raise click.UsageError("say of which names: a NAME or a GLOB, or --policies for those that have one", context)
    has_rules = by_policies or any(rules.values())
    if has_rules and not yes and not dry_run and not sys.stdin.isatty():
        raise click.UsageError(
            "forget asks first, and there is no terminal to ask on; add --yes, or --dry-run to see what would go",
            context,
        )
    with options.open_store() as store:
        plan = store.forget(names, policies=by_policies, **rules)
        for note in plan.notes:
            say(styled("warning: ", fg="yellow", bold=True) + printable(note))
        if not dry_run and plan.forgotten:
            if not yes:
                _confirm(options, plan)
            plan = store.forget_planned(plan)
            _show(options, plan, rows=yes)
        else:
            _show(options, plan, rows=True)
    _hint(options, plan, dry_run=dry_run)


def _confirm(options: Options, plan: casstore.ForgetPlan) -> None:
    """Show what would go, and ask. Raises click.ClickException where the answer is no."""
    if not options.json:
        _show_rows(plan)
    count = plural(len(plan.forgotten), "version")
    question = f"Forget {count} of {len(plan.versions):,}, which frees {human_bytes(plan.frees_bytes)}?"
    if not click.confirm(question, err=True):
        raise click.ClickException("nothing was forgotten")


def _show(options: Options, plan: casstore.ForgetPlan, *, rows: bool) -> None:
    if options.json:
        _show_as_json(plan)
        return
    if rows:
        _show_rows(plan)
    if is_screen():
        would = "would go" if plan.dry_run else "forgotten"
        frees = f"{human_bytes(plan.frees_bytes)} {'would come' if plan.dry_run else 'come'} back"
        click.echo(f"{len(plan.forgotten):,} of {plural(len(plan.versions), 'version')} {would}; {frees}")


def _show_rows(plan: casstore.ForgetPlan) -> None:
    on_screen = is_screen()
    show_table(
        _COLUMNS,
        [
            (
                _decision(each, on_screen=on_screen), each.tag, age(each.created_at) if on_screen else each.created_at,
                Bytes(each.size), Bytes(each.frees_bytes) if not each.keep else None, ", ".join(each.reasons),
            )
            for each in plan.versions
        ],
    )  # fmt: skip


def _decision(version: casstore.PlannedVersion, *, on_screen: bool) -> str:
    text = "keep" if version.keep else "forget"
    return text.upper() if on_screen else text


def _show_as_json(plan: casstore.ForgetPlan) -> None:
    show_json(
        {
            "dry_run": plan.dry_run,
            "versions": [
                {
                    "tag": str(each.tag),
                    "keep": each.keep,
                    "reasons": list(each.reasons),
                    "created_at": utc(each.created_at),
                    "size_bytes": each.size,
                    "frees_bytes": each.frees_bytes,
                }
                for each in plan.versions
            ],
            "forgotten": list(map(str, plan.forgotten)),
            "frees_bytes": plan.frees_bytes,
            "frees_at_rewrite_bytes": plan.frees_at_rewrite_bytes,
            "notes": list(plan.notes),
            "quarantined": list(plan.quarantined),
        }
    )


def _hint(options: Options, plan: casstore.ForgetPlan, *, dry_run: bool) -> None:
    for path in plan.quarantined:
        hint(options, f"kept in {path}, since it was not the version's own")
    if dry_run and plan.forgotten:
        hint(options, "nothing was changed; the same without --dry-run does it")
    elif plan.forgotten:
        hint(
            options,
            "`casstore undelete` brings one back; `casstore gc --empty-trash` gives the space of all that is in the "
            "trash back at once",
        )
