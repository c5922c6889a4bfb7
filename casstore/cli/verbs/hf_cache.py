"""casstore hf-cache"""

from __future__ import annotations

from collections.abc import Iterable

import click

import casstore.integrations.hugging_face as hugging_face
from casstore.cli.exits import ExitCode, NotFound
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, is_screen, printable, say, show_json, show_table

_EXAMPLES = """\b
Examples:
  casstore hf-cache link bert                  and then, with HF_HUB_OFFLINE=1:
  python -c 'from transformers import AutoModel; AutoModel.from_pretrained("casstore/bert", revision="prod")'
  casstore hf-cache refresh                    after a version was saved
  casstore hf-cache unlink bert
"""


@click.group("hf-cache", invoke_without_command=True, epilog=_EXAMPLES, subcommand_metavar="[link|refresh|unlink] ...")
@click.pass_context
def hf_cache(context: click.Context) -> None:
    """Show versions in the cache of huggingface_hub.

    transformers, vLLM, diffusers and all else that loads from the hub then find them as casstore/NAME, offline.
    """
    if context.invoked_subcommand is None:
        raise click.UsageError("say what to do: casstore hf-cache link NAME, or casstore hf-cache unlink NAME", context)


@hf_cache.command(epilog="\b\nExample:\n  casstore hf-cache link bert\n")
@click.argument("name", metavar="NAME")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(file_okay=False))
@click.option("--all", "everything", is_flag=True, help="Every version, each of which gets a directory in the store.")
@click.option("--copy", is_flag=True, help="Copy the files, as into a cache on another file system.")
@common_options
@pass_options
def link(options: Options, /, name: str, directory: str | None, everything: bool, copy: bool) -> None:
    """Put the newest version of NAME, and those with an alias, into the cache as casstore/NAME.

    DIR is the cache, by default that of huggingface_hub ($HF_HUB_CACHE, $HF_HOME). Revisions are the aliases, the
    versions, and main, the newest one. The files are read-only hardlinks to the store's. They stay when the store
    takes directories away or deletes versions; the space comes back with the next link, refresh or unlink. They follow
    when `casstore alias` moves an alias: the store remembers where they are (`casstore config get hf_caches`).
    `casstore hf-cache refresh` is for versions that were saved since, and for aliases that a program has moved.
    """
    with options.open_store() as store:
        linked = hugging_face.link(store, name, directory, everything=everything, copy=copy)
    if options.json:
        show_json(linked._asdict())
        return
    _show([linked])
    where = "" if directory is None else f"HF_HUB_CACHE={printable(directory)} "
    hint(options, f'{where}HF_HUB_OFFLINE=1 lets from_pretrained("{linked.repository}", revision="main") find it')


@hf_cache.command(epilog="\b\nExamples:\n  casstore hf-cache refresh\n  casstore hf-cache refresh bert\n")
@click.argument("name", metavar="[NAME]", required=False)
@common_options
@pass_options
def refresh(options: Options, /, name: str | None) -> None:
    """Bring up to date what link has put into caches, of NAME or of all names, where it is still there.

    What a revision meant before stays until the next time, as another process may just be loading it.

    Exit code 3: something could not be brought up to date.
    """
    with options.open_store() as store:
        linked, problems = hugging_face.refresh(store, name)
    if options.json:
        show_json({"linked": [each._asdict() for each in linked], "problems": problems})
    else:
        _show(linked)
        if not linked and not problems:
            hint(options, f"nothing is linked; `casstore hf-cache link {name or 'NAME'}` does it")
    for problem in problems:
        say(printable(problem))
    if problems:
        raise click.exceptions.Exit(ExitCode.PARTLY_DONE)


def _show(linked: Iterable[hugging_face.Linked]) -> None:
    rows = [(each.repository, revision, tag) for each in linked for revision, tag in each.revisions.items()]
    if is_screen():
        for repository, revision, tag in rows:
            click.echo(f"{repository} {printable(revision)}: {tag}")
    else:
        show_table((), rows)


@hf_cache.command(epilog="\b\nExample:\n  casstore hf-cache unlink bert\n")
@click.argument("name", metavar="NAME")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(file_okay=False))
@common_options
@pass_options
def unlink(options: Options, /, name: str, directory: str | None) -> None:
    """Take casstore/NAME out of the cache again. The store keeps its versions."""
    with options.open_store() as store:
        try:
            path = hugging_face.unlink(store, name, directory)
        except FileNotFoundError as error:
            raise NotFound(str(error)) from error
    if options.json:
        show_json({"path": path})
    else:
        click.echo(f"removed {printable(path)}" if is_screen() else path)
