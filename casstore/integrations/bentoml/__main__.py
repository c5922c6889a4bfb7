"""`python -m casstore.integrations.bentoml ...`: the `bentoml` command, with its models in casstore."""

from __future__ import annotations

import sys

from casstore import CasstoreError
from casstore.integrations.bentoml import install


def main() -> None:
    """Run the command line of this process, and exit."""
    try:
        install()
    except (CasstoreError, OSError) as error:
        sys.exit(f"Error: {error}")
    from bentoml_cli.cli import cli

    from casstore.integrations.bentoml.listing import replace_list_command

    replace_list_command()
    cli(prog_name="bentoml")


if __name__ == "__main__":
    main()
