"""casstore pin, casstore unpin"""

from __future__ import annotations

import click

import casstore
from casstore.cli.arguments import complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import is_screen, printable, show_json

_PIN_EXAMPLES = """\b
Examples:
  casstore pin bert:v1
  casstore pin bert                            the version that is the newest now, also when it no longer is
"""
_UNPIN_EXAMPLES = """\b
Examples:
  casstore unpin bert:v1
"""


@click.command(epilog=_PIN_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@common_options
@pass_options
def pin(options: Options, tag: str) -> None:
    """Keep gc from taking a version's directory away.

    Pinning twice is fine. A pin does not keep the version from being deleted.
    """
    with options.open_store() as store:
        _answer(options, store.pin(tag), "pinned")


@click.command(epilog=_UNPIN_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@common_options
@pass_options
def unpin(options: Options, tag: str) -> None:
    """Let gc take a version's directory away again.

    gc does so when it has not been used for some days (the setting keep_days). Unpinning twice is fine.
    """
    with options.open_store() as store:
        _answer(options, store.unpin(tag), "not pinned")


def _answer(options: Options, model: casstore.Model, state: str) -> None:
    if options.json:
        show_json({"tag": str(model.tag), "is_pinned": model.is_pinned})
    else:
        click.echo(f"{printable(str(model.tag))} is {state}" if is_screen() else str(model.tag))
