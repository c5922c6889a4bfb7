"""casstore remote"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

import casstore
from casstore.cli.exits import ExitCode
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
    show_fields,
    show_json,
    show_table,
    utc,
)
from casstore.cli.progress import progress_bar
from casstore.cli.remotes import complete_remote

_EXAMPLES = """\b
Examples:
  casstore remote add origin s3://bucket/models
  casstore remote add nas /mnt/nas/models      a directory, on a NAS or a USB disk
  casstore push bert:v1
  casstore remote gc --dry-run
"""
_MOST_PUSHES = 10
_COLUMNS = (Column("NAME", fixed=True), Column("URL", whole=True), Column(""))


@click.group(epilog=_EXAMPLES, subcommand_metavar="[add|list|show|remove|default|gc|repack|verify] ...")
@common_options
def remote() -> None:
    """Set remotes up, and look after what is in them.

    A remote is a prefix in an object store (S3, GCS, Azure and what speaks as they do) or a directory. How to reach it
    is kept in the store's remotes.toml, but no credentials: they come from the environment, a profile or a command.
    """


def reaching(command: Any) -> Any:
    """The options that say how a bucket is reached."""
    for option in reversed((
        click.option("--endpoint", metavar="URL", help="Of a server that speaks S3, for what is not AWS itself."),
        click.option("--region", metavar="NAME", help="Of the bucket.  [default: $AWS_REGION, or us-east-1]"),
        click.option("--anonymous", is_flag=True, help="Ask without credentials, as of a public bucket."),
        click.option("--profile", metavar="NAME", help="A profile of ~/.aws/config; needs the package boto3."),
        click.option("--credential-process", metavar="COMMAND", help="A command that prints them, in AWS's form."),
    )):  # fmt: skip
        command = option(command)
    return command


@remote.command("add", epilog="\b\nExamples:\n  casstore remote add origin s3://bucket/models --region eu-central-1\n"
                "  casstore remote add lab s3://models --endpoint http://minio.lab:9000\n"
                "  casstore remote add usb /media/usb/models\n")  # fmt: skip
@click.argument("name", metavar="NAME")
@click.argument("url", metavar="URL")
@reaching
@click.option(
    "--single-writer",
    is_flag=True,
    help="Take a store that ignores conditional creates; only one machine may ever write to it then.",
)
@click.option("--no-make", is_flag=True, help="Do not make a remote where none stands.")
@common_options
@pass_options
def add(options: Options, /, name: str, url: str, single_writer: bool, no_make: bool, **reach: Any) -> None:
    """Set a remote up under a NAME, and make it if none stands at URL.

    An object store is probed first: one that lets two writers take the same name is refused.
    """
    with options.open_store(create=True) as store:
        made = store.add_remote(name, url, single_writer=single_writer, make=not no_make, **reach)
    if options.json:
        show_json({"name": name, "url": made.url})
        return
    click.echo(f"the remote {name} is at {made.url}" if is_screen() else f"{name}\t{made.url}")
    hint(options, f"`casstore push --all --to {name}` brings every version there")


@remote.command("list", epilog="\b\nExample:\n  casstore remote list\n")
@common_options
@pass_options
def list_remotes(options: Options) -> None:
    """List the remotes of the store.

    The default one, which is meant where none is named, comes first.
    """
    with options.open_store() as store:
        remotes = store.remotes()
        default = store.default_remote()
    if options.json:
        rows = [{"name": name, "url": url, "default": name == default} for name, url in remotes.items()]
        show_json({"remotes": rows})
    elif remotes:
        show_table(_COLUMNS, [(name, url, "default" if name == default else "") for name, url in remotes.items()])
    else:
        hint(options, "no remote is set up; `casstore remote add origin URL` does it")


@remote.command("show", epilog="\b\nExample:\n  casstore remote show origin\n")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_remote)
@common_options
@pass_options
def show(options: Options, name: str | None) -> None:
    """Show where a remote is, and what is in it."""
    with options.open_store() as store, store.remote(name) as there:
        refs = there.list()
        found = {
            "url": there.url,
            "versions": len(refs),
            "names": len({ref.tag.name for ref in refs}),
            "size": Bytes(sum(ref.size for ref in refs)),
            "newest": refs[0].tag if refs else None,
        }
    if options.json:
        size = found.pop("size")
        show_json({**found, "size_bytes": size, "newest": None if found["newest"] is None else str(found["newest"])})
    else:
        show_fields(found)


@remote.command(
    "remove",
    epilog="\b\nExamples:\n  casstore remote remove origin\n"
    "  casstore remote remove origin --force        it has moved: add it again under its name\n",
)
@click.argument("name", metavar="NAME", shell_complete=complete_remote)
@click.option("--force", is_flag=True, help="Also where evicted versions are only there; their names stay.")
@common_options
@pass_options
def remove(options: Options, name: str, force: bool) -> None:
    """Forget a remote; what stands there stays as it is.

    A remote that alone has versions which were evicted stays, unless another remote of the store is at the same place,
    or with --force. They can be had again once a remote that has them is added under this name.
    """
    with options.open_store() as store:
        alone = store.remove_remote(name, force=force)
    if options.json:
        show_json({"removed": name, "elsewhere": list(alone)})
    if alone:
        hint(options, f"{plural(len(alone), 'version')} can be had again once a remote that has them is called {name}")


@remote.command("default", epilog="\b\nExample:\n  casstore remote default origin\n")
@click.argument("name", metavar="NAME", shell_complete=complete_remote)
@common_options
@pass_options
def default(options: Options, name: str) -> None:
    """Have a remote meant where none is named."""
    with options.open_store() as store:
        store.set_default_remote(name)
    if options.json:
        show_json({"default": name})


@remote.command(
    "gc",
    epilog="\b\nExamples:\n  casstore remote gc --dry-run\n  casstore remote gc origin\n"
    "  casstore remote gc --give-up-after 1         end pushes that were killed\n",
)
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_remote)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--give-up-after",
    "hours",
    type=click.FloatRange(min=0, max=8760),
    default=168,
    metavar="HOURS",
    help="End pushes that have brought nothing for so long; one that lives starts over.  [default: 168]",
)
@common_options
@pass_options
def gc(options: Options, name: str | None, dry_run: bool, hours: float) -> None:
    """Give back what no version there needs.

    Others may push to it meanwhile. What nothing needs is published first, and removed once every push that is under
    way has taken note of it, by this run or by a later one. A push that has been silent for 7 days is revoked, and
    starts over by itself. One that was killed is waited for until then: push its version again, or give up earlier. In
    a directory on a network file system, whose listings may be old, it takes ten minutes.
    """
    with options.open_store() as store, store.remote(name) as there:
        done = there.gc(dry_run=dry_run, give_up_after=timedelta(hours=hours))
    if options.json:
        show_json({
            "packs": done.packs, "freed_bytes": done.freed_bytes, "condemned": done.condemned,
            "waiting": list(done.waiting), "revoked": list(done.revoked), "records": done.records, "dry_run": dry_run,
            "pushes": [{"id": push.id, "by": push.by, "tags": list(push.tags), "opened_at": utc(push.opened_at),
                        "heard_at": utc(push.heard_at)} for push in done.pushes],
        })  # fmt: skip
        return
    would = "would be " if dry_run or done.waiting else ""
    click.echo(f"{plural(done.packs, 'pack')} {would}removed, {human_bytes(done.freed_bytes)}")
    if done.waiting:
        hint(
            options,
            f"{plural(len(done.waiting), 'push is', 'pushes are')} under way, and must take note first: run it later",
        )
        for push in done.pushes[:_MOST_PUSHES]:
            what = ", ".join(push.tags[:5]) or "versions that are packed anew"
            hint(options, f"  {what} by {push.by}: begun {age(push.opened_at)}, last heard of {age(push.heard_at)}")
        hint(
            options,
            "of one that was killed, push the same version again from there, or give it up: `casstore remote gc "
            f"{name or ''}{' ' if name else ''}--give-up-after HOURS`",
        )
    if done.revoked:
        hint(options, f"revoked, since nothing came of it for long: {plural(len(done.revoked), 'push', 'pushes')}")


@remote.command("repack", epilog="\b\nExample:\n  casstore remote repack && casstore remote gc\n")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_remote)
@click.option("--dry-run", is_flag=True, help="Only say what it would do.")
@common_options
@pass_options
def repack(options: Options, name: str | None, dry_run: bool) -> None:
    """Rewrite packs of which at least half is dead, while others may push and pull.

    What that leaves behind goes with the next `casstore remote gc`.
    """
    with options.open_store() as store, store.remote(name) as there, progress_bar(options) as progress:
        done = there.repack(dry_run=dry_run, progress=progress)
    if options.json:
        show_json({
            "packs": done.packs, "versions": done.versions, "freed_bytes": done.freed_bytes, "dry_run": dry_run
        })  # fmt: skip
        return
    would = "would be " if dry_run else ""
    click.echo(f"{plural(done.packs, 'pack')} of {plural(done.versions, 'version')} {would}rewritten")
    if done.packs:
        hint(options, f"`casstore remote gc` frees {human_bytes(done.freed_bytes)} then")


@remote.command("verify", epilog="\b\nExamples:\n  casstore remote verify\n  casstore remote verify origin --deep\n")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=complete_remote)
@click.option("--deep", is_flag=True, help="Read every byte, and compare it with its digest.")
@common_options
@pass_options
def verify(options: Options, name: str | None, deep: bool) -> None:
    """See that all that the versions in a remote need is there.

    Exit code 1 where something is damaged or gone; pushing those versions again, from where they are, after deleting
    them there, mends it.
    """
    with options.open_store() as store, store.remote(name) as there:
        report = there.verify(deep=deep)
    if options.json:
        show_json({
            "ok": report.ok, "versions": report.versions, "packs": report.packs, "read_bytes": report.read_bytes,
            "damage": list(report.damage), "tags": list(report.tags),
        })  # fmt: skip
    else:
        _say(options, report, deep=deep)
    if not report.ok:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _say(options: Options, report: casstore.RemoteReport, *, deep: bool) -> None:
    for line in report.damage:
        click.echo(f"damaged: {printable(line)}")
    looked = f"{plural(report.versions, 'version')}, {plural(report.packs, 'pack')}"
    read = f", {human_bytes(report.read_bytes)} read" if deep else ""
    click.echo(f"{looked}{read}: {'sound' if report.ok else 'damaged'}")
    if report.tags:
        hint(options, f"these cannot be pulled whole: {', '.join(report.tags[:5])}")
