"""casstore config"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import casstore
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Column, hint, show_json, show_table

_EXAMPLES = """\b
Examples:
  casstore config
  casstore config get durability
  casstore config set durability relaxed
  casstore config unset durability
"""
_COLUMNS = (Column("KEY", fixed=True), Column("VALUE"), Column("DEFAULT"), Column("TAKES"), Column("MEANING"))


if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # generic since click 8.2 only


class _Key(_Choice):
    """The key of a setting, also with dashes, as options are written."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(value.replace("-", "_"), param, ctx)


_KEY = _Key(list(casstore.SETTINGS))


@click.group(invoke_without_command=True, epilog=_EXAMPLES, subcommand_metavar="[get|set|unset] ...")
@common_options
@pass_options
@click.pass_context
def config(context: click.Context, options: Options) -> None:
    """List the store's settings, or read and change one.

    They are kept in the store and hold for all who use it.
    """
    if context.invoked_subcommand is not None:
        return
    with options.open_store() as store:
        values = store.settings()
    known = {key: (values.get(key, setting.default), setting) for key, setting in casstore.SETTINGS.items()}
    if options.json:
        settings = [
            {"key": key, "value": value, "default": s.default, "takes": s.takes, "meaning": s.meaning}
            for key, (value, s) in known.items()
        ]
        show_json({"settings": settings})
    else:
        show_table(_COLUMNS, [(key, value, s.default, s.takes, s.meaning) for key, (value, s) in known.items()])


@config.command("get", epilog="\b\nExample:\n  casstore config get durability\n")
@click.argument("key", metavar="KEY", type=_KEY)
@common_options
@pass_options
def get_setting(options: Options, key: str) -> None:
    """Print the value of KEY."""
    with options.open_store() as store:
        _answer(options, store, key)


@config.command("set", epilog="\b\nExample:\n  casstore config set durability relaxed\n")
@click.argument("key", metavar="KEY", type=_KEY)
@click.argument("value")
@common_options
@pass_options
def set_setting(options: Options, key: str, value: str) -> None:
    """Make VALUE the setting of KEY."""
    _change(options, key, value)


@config.command("unset", epilog="\b\nExample:\n  casstore config unset durability\n")
@click.argument("key", metavar="KEY", type=_KEY)
@common_options
@pass_options
def unset_setting(options: Options, key: str) -> None:
    """Take KEY back to its default."""
    _change(options, key, None)


def _change(options: Options, key: str, value: str | None) -> None:
    with options.open_store() as store:
        store.set_setting(key, value)
        if options.json:
            _answer(options, store, key)
    if (key, value) == ("materialize", "all"):
        hint(options, "from now on directories stay; `casstore sync-tree` makes those that versions lack")


def _answer(options: Options, store: casstore.Store, key: str) -> None:
    value = store.settings()[key]
    if options.json:
        show_json({"key": key, "value": value})
    else:
        click.echo(value)
