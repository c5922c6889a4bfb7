"""casstore adopt"""

from __future__ import annotations

from pathlib import Path

import click

import casstore
import casstore.integrations.hugging_face as hugging_face
from casstore.cli.exits import ExitCode
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, human_bytes, plural, printable, show_json
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore adopt ~/bentoml                     copy every version of a BentoML home into the store
  casstore adopt ~/bentoml --move              and take the files over, so that they are gone from there
  casstore --home ~/bentoml adopt ~/bentoml    keep the home where it is, and make it a store
  casstore adopt /models                       any directory of NAME/VERSION/
  casstore adopt --hf-cache                    every model in the cache of huggingface_hub, as ORG--NAME:REVISION
"""


@click.command(short_help="Save the versions of a BentoML home.", epilog=_EXAMPLES)
@click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--move", is_flag=True, help="Take the files over instead of copying them; they are gone from DIR.")
@click.option(
    "--hf-cache",
    is_flag=True,
    help="DIR is a cache of huggingface_hub, by default your own: save each snapshot of a model, whose links are "
    "followed, with its repository and revision in the metadata.",
)
@common_options
@pass_options
def adopt(options: Options, directory: Path | None, move: bool, hf_cache: bool) -> None:
    """Save every version in a BentoML home, or in any directory of NAME/VERSION/.

    Names, versions, labels, metadata and creation times come over, and with them which version is the latest. It may
    be run again, also after it was cut short: a version that is saved already, just so, is left alone. A directory that
    cannot be adopted is named, left as it is, and the exit code is 3.

    When DIR is the home of the store itself, its models/ are taken over where they stand. BentoML goes on reading
    them, and since it sees nothing else, every version keeps its directory from then on (the setting materialize).
    """
    if hf_cache and move:
        raise click.UsageError(
            "--move does not go with --hf-cache: files there are links to what others use too, so it would free "
            "nothing and break the cache; `hf cache rm` removes what has been saved",
            click.get_current_context(),
        )
    if directory is None and not hf_cache:
        raise click.UsageError("say what to adopt: a DIR, or --hf-cache", click.get_current_context())
    with options.open_store(create=True) as store, progress_bar(options) as progress:
        if hf_cache or directory is None:
            directory = directory or hugging_face.cache_directory()
            report = hugging_face.adopt_cache(store, directory, progress=progress)
        else:
            report = store.adopt(directory, move=move, progress=progress)
        is_elsewhere = store.home.resolve() not in (directory.resolve(), *directory.resolve().parents)
    if options.json:
        show_json(_as_json(report))
    else:
        _show(options, report)
        if report.adopted and is_elsewhere and not move:
            hint(options, f"{directory} is as it was; let `casstore verify` read the copies before you remove it")
    if report.refused:
        raise click.exceptions.Exit(ExitCode.PARTLY_DONE)


def refusals_as_json(refused: tuple[casstore.Refused, ...]) -> list[dict[str, str]]:
    return [{"path": each.path, "reason": each.reason} for each in refused]


def show_refusals(refused: tuple[casstore.Refused, ...]) -> None:
    for each in refused:
        # Many a reason begins with the path, or that of a file below it.
        of_it = each.reason.removeprefix(each.path)
        if of_it[:1] == " ":
            click.echo(f"refused: {printable(each.reason)}")
        else:
            reason = of_it[1:] if of_it[:1] == "/" != each.path[-1:] else each.reason
            click.echo(f"refused: {printable(each.path)}: {printable(reason)}")


def _as_json(report: casstore.AdoptReport) -> dict[str, object]:
    return {
        "adopted_tags": list(report.adopted),
        "present_tags": list(report.present),
        "refused": refusals_as_json(report.refused),
        "notes": list(report.notes),
        "logical_bytes": report.logical_bytes,
        "added_bytes": report.added_bytes,
        "shared_bytes": report.shared_bytes,
    }


def _show(options: Options, report: casstore.AdoptReport) -> None:
    for tag in report.adopted:
        click.echo(tag if options.quiet else f"adopted: {tag}")
    show_refusals(report.refused)
    if options.quiet:
        return
    for note in report.notes:
        click.echo(f"note: {printable(note)}")
    parts = [f"{plural(len(report.adopted), 'version')} adopted"]
    if report.present:
        parts.append(f"{len(report.present):,} saved already")
    if report.refused:
        parts.append(f"{len(report.refused):,} refused")
    click.echo(", ".join(parts))
    if report.logical_bytes:
        shared = report.shared_bytes / report.logical_bytes
        click.echo(
            f"{human_bytes(report.logical_bytes)} of files; the store has grown by {human_bytes(report.added_bytes)}, "
            f"{shared:.0%} is shared"
        )
