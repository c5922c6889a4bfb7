"""casstore policy"""

from __future__ import annotations

from typing import Any

import click

import casstore
from casstore.cli.exits import NotFound
from casstore.cli.keeping import keep_options, rules_of
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Column, hint, is_screen, printable, show_json, show_table

_EXAMPLES = """\b
Examples:
  casstore policy set 'run-*' --keep-last 3 --keep-best metrics.eval_loss:min:1
  casstore policy show
  casstore policy show run-7                   those that match this name
  casstore policy unset 'run-*'
  casstore forget --policies --dry-run         what they would do now
"""
_SET_EXAMPLES = """\b
Examples:
  casstore policy set 'run-*' --keep-last 3 --keep-best metrics.eval_loss:min:1
  casstore policy set bert --keep-daily 7 --keep-weekly 4 --keep-label keep=yes
"""
_COLUMNS = (Column("NAMES"), Column("RULES"))


@click.group(invoke_without_command=True, epilog=_EXAMPLES, subcommand_metavar="[set|show|unset] ...")
@common_options
@pass_options
@click.pass_context
def policy(context: click.Context, options: Options) -> None:
    """Store rules by which versions are forgotten.

    They are kept in the store, hold for all who use it, and are applied after each save and by `casstore gc`. A save
    never fails for a policy, and never forgets the version just saved. Of a name that several policies match, what any
    of them keeps stays.
    """
    if context.invoked_subcommand is None:
        with options.open_store() as store:
            _show(options, store.policies())


@policy.command("set", epilog=_SET_EXAMPLES)
@click.argument("glob", metavar="NAME|GLOB")
@keep_options
@common_options
@pass_options
def set_policy(options: Options, /, glob: str, **how: Any) -> None:
    """Forget from now on what no rule keeps of the names that GLOB matches.

    Replaces an earlier policy of the same GLOB. The rules are those of `casstore forget`.
    """
    with options.open_store() as store:
        pattern = store.set_policy(glob, **rules_of(how))
        rules = store.policies()[pattern]
    if options.json:
        show_json({"pattern": pattern, "rules": _document(rules)})
    else:
        click.echo(f"{printable(pattern)}: {printable(str(rules))}" if is_screen() else pattern)
    hint(options, "`casstore forget --policies --dry-run` shows what the policies would forget now")


@policy.command("show", epilog="\b\nExample:\n  casstore policy show run-7\n")
@click.argument("glob", metavar="[NAME|GLOB]", required=False)
@common_options
@pass_options
def show_policies(options: Options, glob: str | None) -> None:
    """List the stored policies: all, those that match a NAME, or that of a GLOB."""
    with options.open_store() as store:
        found = store.policies()
        if glob is not None:
            named = {glob: found[glob]} if glob in found else {}
            found = named if set(glob) & set("*?[") else store.policies(glob)
    if glob is not None and not found:
        raise NotFound(f"no policy is stored for {glob!r}; `casstore policy show` lists those there are")
    _show(options, found)


@policy.command("unset", epilog="\b\nExample:\n  casstore policy unset 'run-*'\n")
@click.argument("glob", metavar="NAME|GLOB")
@common_options
@pass_options
def unset_policy(options: Options, glob: str) -> None:
    """Take the policy of GLOB away. Nothing is brought back by that."""
    with options.open_store() as store:
        pattern = store.unset_policy(glob)
    if options.json:
        show_json({"pattern": pattern, "rules": None})
    else:
        click.echo(f"{printable(pattern)} has no policy any more" if is_screen() else pattern)


def _show(options: Options, policies: dict[str, casstore.KeepRules]) -> None:
    if options.json:
        show_json({"policies": [{"pattern": each, "rules": _document(rules)} for each, rules in policies.items()]})
    elif policies:
        show_table(_COLUMNS, [(pattern, str(rules)) for pattern, rules in policies.items()])
    else:
        hint(options, "no policy is stored; `casstore policy set 'run-*' --keep-last 5` stores one")


def _document(rules: casstore.KeepRules) -> dict[str, Any]:
    return rules.as_document()
