"""casstore gc"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

import click

import casstore
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import Bytes, Column, hint, human_bytes, plural, printable, show_json, show_table
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  casstore gc --dry-run                        what would go, changing nothing
  casstore gc
  casstore gc --evict-all                      directories in recent use too: each is made again when asked for
  casstore gc --evict-all --rewrite --empty-trash    all that can be had
"""
_MAX_LISTED = 5
_WORTH_SAYING_BYTES = 1 << 20
_LOWEST_PRIORITY = 19
_ESTIMATED = ("rewritten", "packed")


@click.command(epilog=_EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--evict-all",
    is_flag=True,
    help="Take away the directory of every version that is not pinned, aliased or in use, also new and recent ones.",
)
@click.option(
    "--rewrite",
    is_flag=True,
    help="Rewrite every pack that gets smaller by it, so that what `casstore stats` calls trapped is free.",
)
@click.option(
    "--empty-quarantine",
    is_flag=True,
    help="Remove also what was found damaged, or in a deleted version's directory, and was moved to quarantine/. Look "
    "through it first.",
)
@click.option(
    "--empty-trash",
    is_flag=True,
    help="Take all deleted versions for good, not only those whose trash_days have passed.",
)
@click.option(
    "--auto",
    is_flag=True,
    help="As saves start it: at low priority, and only where the setting auto_gc is on, CASSTORE_AUTO_GC is not 0, "
    "much would come back, and no other gc runs; otherwise quietly nothing.",
)
@common_options
@pass_options
@click.pass_context
def gc(context: click.Context, options: Options, /, dry_run: bool, auto: bool, **wishes: bool) -> None:
    """Give back space: what no version needs, and idle directories.

    A directory goes unless its version is the newest of its name, pinned, aliased, in use by a process that lives, or
    was saved or opened in the last days (the setting keep_days). The version stays, and makes its directory again when
    asked for; what only idle directories held is packed, as differences between versions where it can be.
    With -vv each directory that stays is named, with the reason.

    \b
    policies          versions that a stored policy no longer keeps (`casstore policy`); only where there is one
    dead sessions     what processes left that were killed
    unfinished work   what was cut short after its version was saved or deleted
    trash             versions deleted trash_days ago; with --empty-trash all deleted ones
    idle directories  of versions; frees what has no other link
    quarantine        what an earlier gc or sync-tree --prune moved there, keep_days ago, and kept drafts as old
    stray files       that belong to nothing: moved to quarantine/ for keep_days
    unneeded objects  loose files and packs that nothing needs
    rewritten         packs less than half of which is needed, and many small ones;
                      with --rewrite each that gets smaller
    packed            loose files that no directory links to any more

    Others may save, read and delete meanwhile; interrupting it is safe. In a dry run the bytes of packing and
    rewriting are estimates: up to 128 MiB to be packed are encoded to tell, of more a sample; they are some kilobytes
    off for up to 128 MiB, and some percent for more. In a pipe: step, count and bytes freed.
    """
    if auto and (dry_run or any(wishes.values())):
        raise click.UsageError("--auto decides by itself; it goes with no other option that says what to do", context)
    if auto:
        with contextlib.suppress(OSError):
            os.nice(_LOWEST_PRIORITY)
    with options.open_store() as store, progress_bar(options) as progress:
        report = store.gc(dry_run=dry_run, auto=auto, progress=progress, **wishes)
    if options.json:
        _show_as_json(report)
    elif report.steps:
        _show_as_table(report)
    _hint(options, report, wishes)


def _show_as_json(report: casstore.GcReport) -> None:
    steps = [
        {
            "name": step.name,
            "count": step.count,
            "skipped": step.skipped,
            "damaged": step.damaged,
            "healed": step.healed,
            "freed_bytes": step.freed_bytes,
        }
        for step in report.steps
    ]
    show_json(
        {
            "dry_run": report.dry_run,
            "freed_bytes": report.freed_bytes,
            "steps": steps,
            "altered": [str(tag) for tag in report.altered],
            "strays_kept_in": report.strays_kept_in,
            "left": list(report.left),
            "foreign": list(report.foreign),
            "quarantined": list(report.quarantined),
            "quarantine_bytes": report.quarantine_bytes,
            "evictable_bytes": report.evictable_bytes,
            "packable_bytes": report.packable_bytes,
            "trash_versions": report.trash_versions,
            "clock_moved_days": report.clock_moved_days,
        }
    )


def _show_as_table(report: casstore.GcReport) -> None:
    freed = Column("WOULD FREE" if report.dry_run else "FREED", right=True)
    rows = [(step.name, step.count, Bytes(max(0, step.freed_bytes))) for step in report.steps]
    total = ("total", sum(step.count for step in report.steps), Bytes(report.freed_bytes))
    show_table((Column("STEP"), Column("COUNT", right=True), freed), [*rows, total])


def _hint(options: Options, report: casstore.GcReport, wishes: Mapping[str, bool]) -> None:
    if report.altered:
        count = len(report.altered)
        tags = ", ".join(map(str, report.altered[:_MAX_LISTED]))
        more = f" and {count - _MAX_LISTED:,} more" if count > _MAX_LISTED else ""
        what = "a directory" if count == 1 else f"{count:,} directories"
        hint(options, f"left {what} alone, in which something was changed or added: {tags}{more}")
    if report.strays_kept_in:
        path = printable(report.strays_kept_in)
        hint(options, f"stray files are in {path} for the days of keep_days; remove it to have the space at once")
    for line in report.left:
        hint(options, line)
    if report.foreign:
        names = ", ".join(report.foreign[:_MAX_LISTED])
        more = f" and {len(report.foreign) - _MAX_LISTED:,} more" if len(report.foreign) > _MAX_LISTED else ""
        hint(options, f"left alone what is not casstore's: {names}{more}")
    for path in report.quarantined:
        hint(options, f"kept in {path}, since it was not the version's own")
    if report.damaged:
        what = "a damaged chunk" if report.damaged == 1 else f"{report.damaged:,} damaged chunks"
        hint(options, f"left {what} alone; `casstore verify` names the files that need what is damaged")
    if report.healed:
        what = "a damaged chunk" if report.healed == 1 else f"{report.healed:,} damaged chunks"
        hint(options, f"stored {what} again from a copy; `casstore verify` tells what else the disk has harmed")
    if report.dry_run:
        estimated = [step.name for step in report.steps if step.name in _ESTIMATED and step.count]
        if estimated:
            hint(options, f"{' and '.join(estimated)}: bytes are an estimate")
        flags = "".join(f" --{name.replace('_', '-')}" for name, is_wished in wishes.items() if is_wished)
        hint(options, f"nothing was changed; `casstore gc{flags}` does it")
    if report.quarantine_bytes >= _WORTH_SAYING_BYTES:
        hint(
            options,
            f"quarantine/ and drafts/ hold {human_bytes(report.quarantine_bytes)}: what gc or sync-tree moved there, "
            "and kept drafts, for keep_days; the rest until `casstore gc --empty-quarantine`",
        )
    if report.clock_moved_days:
        hint(
            options,
            f"the clock has been set by {report.clock_moved_days:,} days since the trash was last looked at: nothing "
            "in it went, and its trash_days count from now",
        )
    if report.trash_versions:
        what = plural(report.trash_versions, "deleted version")
        hint(options, f"{what} in the trash, for trash_days; `casstore gc --empty-trash` takes all of it now")
    would = report.evictable_bytes + report.packable_bytes
    if would >= _WORTH_SAYING_BYTES:
        held = f"hold {human_bytes(report.evictable_bytes)} that stands elsewhere too"
        kept = f"keep {human_bytes(report.packable_bytes)} from being packed"
        they = [text for text, size in ((held, report.evictable_bytes), (kept, report.packable_bytes)) if size]
        hint(
            options,
            f"directories in recent use {', and '.join(they)}; `casstore gc --evict-all` takes them away, and each is "
            "made again when asked for",
        )
