"""`bentoml models list`, which to tell a model's size would ask for its directory, and so make those of all."""

from __future__ import annotations

import json

import click
import rich
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.utils import human_readable_size
from bentoml_cli.models import model_command
from rich.table import Table

_TITLES = {"tag": "Tag", "module": "Module", "size": "Size", "creation_time": "Creation Time"}


def replace_list_command() -> None:
    """From now on the command takes sizes and all else from the catalog; its output stays as it was."""
    model_command.add_command(_list_models)


@click.command("list")
@click.argument("model_name", required=False)
@click.option("-o", "--output", type=click.Choice(["json", "yaml", "table"]), default="table")
def _list_models(model_name: str | None, output: str) -> None:
    """List Models in the casstore store, newest first

    \b
    $ bentoml models list
    $ bentoml models list fraud_detector
    """
    found = BentoMLContainer.model_store.get().list(model_name)
    rows = [
        {
            "tag": str(model.tag),
            "module": model.info.module,
            "size": human_readable_size(model.file_size),
            "creation_time": model.creation_time.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        }
        for model in sorted(found, key=lambda model: model.creation_time, reverse=True)
    ]
    if output == "json":
        rich.print_json(json.dumps(rows))
    elif output == "yaml":
        rich.print(yaml.safe_dump(rows).rstrip())
    else:
        table = Table(*_TITLES.values(), box=None)
        for row in rows:
            table.add_row(*(row[key] for key in _TITLES))
        rich.print(table)
