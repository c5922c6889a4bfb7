"""casstore count"""

from __future__ import annotations

from typing import Any

import click

from casstore.cli.arguments import parse_pairs
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import show_json
from casstore.cli.remotes import count_there, remote_option
from casstore.cli.searching import HELP, hint_at_unknown, name_and_expression, search_options

_EXAMPLES = f"""{HELP}
\b
Examples:
  casstore count
  casstore count 'metrics.acc > 0.9 and labels.stage = prod'
  casstore count 'run-*' 'created > 30d and not alias exists'
  casstore count 'labels.stage = prod' --remote
"""


@click.command("count", epilog=_EXAMPLES)
@search_options
@remote_option("Those in a remote.")
@common_options
@pass_options
def count(
    options: Options, words: tuple[str, ...], where: str | None, labels: tuple[str, ...], remote: str | None
) -> None:
    """Count versions: all, by name, by an expression."""
    name, expression = name_and_expression(words, where)
    wanted: dict[str, Any] = {"name": name, "labels": parse_pairs("--label", labels), "where": expression}
    if remote is not None:
        found = count_there(options, remote, wanted)
    else:
        with options.open_store() as store:
            found = store.count(**wanted)
            if not found:
                hint_at_unknown(options, store, wanted)
    if options.json:
        show_json({"count": found})
    else:
        click.echo(found)
