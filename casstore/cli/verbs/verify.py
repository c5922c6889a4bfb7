"""casstore verify"""

from __future__ import annotations

import click

import casstore
from casstore.cli.arguments import complete_tag
from casstore.cli.exits import ExitCode
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import file_name, hint, human_bytes, plural, printable, show_json
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore verify
  casstore verify --quick
  casstore verify bert:v1 bert:v2              these alone
  casstore verify bert:v1 --signatures --key key.pub
  casstore verify --json | jq -r '.damaged_tags[]'
  casstore verify -q || mail -s "damaged models" ops@example.com
"""


@click.command(short_help="Read everything and name what is damaged.", epilog=_EXAMPLES)
@click.argument("tags", metavar="[TAG]...", shell_complete=complete_tag, nargs=-1)
@common_options
@click.option("--quick", is_flag=True, help="Only look for what is gone, cut short or written to: reads no content.")
@click.option("--signatures", is_flag=True, help="Also check that each version is signed by a key of --key.")
@click.option(
    "--key",
    "keys",
    metavar="FILE",
    type=click.Path(),
    multiple=True,
    help="Public keys in PEM, for --signatures. Repeatable. [default: those of the setting require_signature]",
)
@pass_options
def verify(options: Options, tags: tuple[str, ...], quick: bool, signatures: bool, keys: tuple[str, ...]) -> None:
    """Read everything, or all that some versions need, and name what is damaged.

    Every stored byte is compared with its digest, and the catalog with the manifests beside it. Changes nothing. Exit
    code 1 when there is damage; `casstore repair` heals what can be. With TAGs only what these versions need is looked
    at, a name alone being its newest version. What other tools have put into models/ or removed there is named, and is
    not damage: see `casstore sync-tree`. So is what was added to a version's directory, and what was found changed in
    one and is kept in quarantine/changed/.

    With --signatures every version, or each of TAGS, must have a signature by one of the keys that is valid for its
    files, which are read for it; `casstore sign` makes one. One without is named, and the exit code is 1.
    """
    if keys and not signatures:
        raise click.UsageError("--key is for --signatures; add that", click.get_current_context())
    with options.open_store() as store, progress_bar(options) as progress:
        asked = _keys(store, keys) if signatures else None
        report = store.verify(tags or None, quick=quick, keys=asked, progress=progress)
    if options.json:
        show_json(
            {
                "is_sound": report.is_sound,
                "tags": list(report.tags),
                "chunks": report.chunks,
                "read_bytes": report.read_bytes,
                "damaged_tags": report.damaged_tags,
                "damaged_files": [{"tag": damage.tag, "path": file_name(damage.path)} for damage in report.damage],
                "damaged_copies": list(report.damaged_copies),
                "damaged_records": list(report.damaged_records),
                "reasons": list(report.reasons),
                "mixed": report.mixed,
                "unknown_directories": list(report.unknown_directories),
                "missing_directories": list(report.missing_directories),
                "added_files": list(report.added_files),
                "kept_files": list(report.kept_files),
                "signatures": [
                    {"tag": each.tag, "is_valid": each.is_valid, "key": each.key or None, "fault": each.fault or None}
                    for each in report.signatures
                ],
                "damaged_trash": [{"tag": each.tag, "path": file_name(each.path)} for each in report.damaged_trash],
            }
        )
    else:
        _show(options, report, quick)
    if not report.is_sound:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _keys(store: casstore.Store, given: tuple[str, ...]) -> tuple[str, ...]:
    said = store.settings()["require_signature"]
    if not given and said == "off":
        raise click.UsageError(
            "say by which keys versions must be signed: --signatures --key FILE", click.get_current_context()
        )
    return given or (said,)


def _is_damaged(report: casstore.VerifyReport) -> bool:
    return bool(report.damage or report.damaged_copies or report.damaged_records or report.damaged_trash)


def _show_signatures(options: Options, report: casstore.VerifyReport) -> None:
    for each in report.signatures:
        if not each.is_valid:
            click.echo(f"not signed as asked: {each.tag}: {printable(each.fault)}")
    if report.signatures and not options.quiet:
        count = sum(each.is_valid for each in report.signatures)
        click.echo(f"{count} of {plural(len(report.signatures), 'version')} signed")


def _show(options: Options, report: casstore.VerifyReport, quick: bool) -> None:
    if report.mixed:
        click.echo(report.mixed)
    for damage in report.damage:
        click.echo(f"damaged: {damage.tag} {printable(file_name(damage.path))}")
    for damage in report.damaged_trash:
        click.echo(f"damaged, of a deleted version: {damage.tag} {printable(file_name(damage.path))}")
    for path in report.damaged_copies:
        click.echo(f"damaged copy, no version is lost: {printable(path)}")
    for tag in report.damaged_records:
        click.echo(f"damaged record in the catalog: {tag}")
    for path in report.unknown_directories:
        click.echo(f"not made by casstore: {printable(path)}")
    for tag in report.missing_directories:
        click.echo(f"directory was removed: {tag}")
    for path in report.added_files:
        click.echo(f"added to a version's directory, not saved with it: {printable(path)}")
    for path in report.kept_files:
        click.echo(f"found changed in a version's directory, kept in quarantine: {printable(path)}")
    _show_signatures(options, report)
    if options.quiet:
        return
    for reason in report.reasons:
        click.echo(f"reason: {printable(reason)}")
    if report.unknown_directories or report.missing_directories:
        hint(options, "`casstore sync-tree` takes up what other tools have done to models/")
    if report.kept_files:
        hint(
            options,
            "gc removes what is kept there after `keep_days`; save what you need under a tag of its own",
        )
    read = f"{plural(report.chunks, 'chunk')} checked, {human_bytes(report.read_bytes)} read"
    if not _is_damaged(report):
        of = f" of {', '.join(report.tags)}" if report.tags else ""
        is_whole = f"nothing{of} is missing, cut short or written to; no content was read"
        click.echo(is_whole if quick else f"sound: {read}{of and ', all' + of}")
        return
    parts = []
    if report.damage:
        tags = {damage.tag for damage in report.damage}
        parts.append(f"{plural(len(tags), 'version')} damaged, {plural(len(report.damage), 'file')}")
    if report.damaged_trash:
        tags = {damage.tag for damage in report.damaged_trash}
        parts.append(f"{plural(len(tags), 'deleted version')} damaged")
    if report.damaged_copies:
        parts.append(f"{plural(len(report.damaged_copies), 'redundant file')} damaged")
    if report.damaged_records:
        parts.append(f"{plural(len(report.damaged_records), 'record')} damaged")
    if not report.damage:
        parts.append("every version is whole" if not report.tags else f"{', '.join(report.tags)}: no file is lost")
    click.echo("; ".join([", ".join(parts), read]))
    hint(options, "`casstore repair` heals what else has the bytes, also from a directory given with --from")
