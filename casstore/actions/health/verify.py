"""verify: compare what stands on disk with its digests and with the catalog, and name what is damaged.

Changes nothing but the note of when containers were read. `inspection` finds; this reports what it found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from casstore.actions import signatures
from casstore.actions.consistency.moments import describe
from casstore.actions.consistency.takeup import holders
from casstore.actions.directories.changed import kept_files
from casstore.actions.directories.survey import disagreement, is_missing
from casstore.actions.health.findings import Findings, Scope
from casstore.actions.health.inspection import inspect
from casstore.actions.missing import what_is_gone
from casstore.actions.registry import policy_log
from casstore.actions.signatures import SignatureCheck
from casstore.actions.workspace import Workspace
from casstore.archive.model_signing import PublicKey
from casstore.catalog.versions import VersionRow
from casstore.notebook import Shown
from casstore.progress import Progress
from casstore.storage.layout import Layout


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a version whose stored bytes are damaged. While a copy of it stands, it may be read from that.

    Attributes
    ----------
    tag
        The version.
    path
        The file in it.
    """

    tag: str
    path: str


@dataclass(frozen=True, slots=True)
class VerifyReport(Shown):
    """What verify read and found.

    `unknown_directories`, `missing_directories`, `added_files` and `kept_files` are not damage.

    Attributes
    ----------
    chunks, read_bytes
        What has been read; 0 if quick.
    damage
        Files of versions whose stored bytes are damaged: lost, unless repair finds a copy of them.
    damaged_copies
        Paths of files that are damaged, altered or missing, without which every version is whole: copies of files,
        directories' files, manifests, logs of aliases and of annotations, signatures.
    damaged_records
        Tags of which the catalog does not say what their manifests say.
    reasons
        One line for each damaged chunk, copy or record, before them for a directory that is gone, and after them for
        each file, unknown to the catalog, that holds what is missing.
    unknown_directories
        Paths in models/ that casstore did not make, for `Store.sync_tree` to see to.
    missing_directories
        Tags of versions whose directory was taken away, for `Store.sync_tree` to see to.
    mixed
        One line where catalog and files seem to be from different moments, empty where they are from one.
    added_files
        Paths of what stands in versions' directories and was not saved with them.
    kept_files
        Directories in quarantine/ with what was found changed or added, which gc removes after `keep_days`.
    tags
        The versions that were asked for, which all this is about then; none where it was everything.
    damaged_trash
        Files of deleted versions that would be damaged if these were brought back.
    signatures
        Whether each version is signed, where that was asked for.
    """

    chunks: int
    read_bytes: int
    damage: tuple[Damage, ...]
    damaged_copies: tuple[str, ...]
    damaged_records: tuple[str, ...]
    reasons: tuple[str, ...]
    unknown_directories: tuple[str, ...] = ()
    missing_directories: tuple[str, ...] = ()
    mixed: str = ""
    added_files: tuple[str, ...] = ()
    kept_files: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    damaged_trash: tuple[Damage, ...] = ()
    signatures: tuple[SignatureCheck, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged, and every version signed where that was asked for."""
        is_damaged = self.damage or self.damaged_copies or self.damaged_records or self.damaged_trash
        return not is_damaged and all(each.is_valid for each in self.signatures)

    @property
    def damaged_tags(self) -> list[str]:
        """The tags of versions with damaged files or records, sorted."""
        return sorted({damage.tag for damage in self.damage} | set(self.damaged_records))


def verify(
    workspace: Workspace,
    progress: Progress,
    *,
    quick: bool = False,
    rows: Iterable[VersionRow] | None = None,
    keys: Sequence[PublicKey] | None = None,
) -> VerifyReport:
    """Check every chunk, redundant loose file, directory, manifest and row, or those of these rows; see `inspect`.

    `keys`: those by one of which each version must be signed, where that is asked for.
    """
    scope = None if rows is None else Scope.of(workspace, rows)
    found = inspect(workspace, progress, quick=quick, scope=scope)
    layout = workspace.layout
    if scope is None:
        differing = disagreement(workspace)
        foreign, missing, mixed = differing.foreign, differing.missing, describe(workspace)
    else:
        foreign, missing, mixed = (), tuple(row for row in scope.rows if is_missing(workspace, row)), ""
    gone = what_is_gone(layout, workspace.catalog)
    copies = _damaged_copies(layout, found)
    if scope is None and (fault := policy_log.fault(workspace)):
        copies[str(layout.policies)] = fault
    tags = () if scope is None else tuple(str(row.tag) for row in scope.rows)
    signed: tuple[SignatureCheck, ...] = ()
    if keys is not None:
        asked = list(workspace.catalog.versions.select()) if scope is None else scope.rows
        signed = signatures.check(workspace, asked, keys, progress)
    return VerifyReport(
        chunks=found.read_chunks,
        read_bytes=found.read_bytes,
        damage=tuple(damage for damage in lost_files(workspace, found) if scope is None or damage.tag in tags),
        damaged_copies=tuple(copies),
        damaged_records=tuple(sorted(map(str, found.records))),
        reasons=(
            *([] if gone is None else [gone]),
            *found.chunks.values(),
            *copies.values(),
            *found.records.values(),
            *_unknown_holders(workspace, found),
        ),
        unknown_directories=tuple(map(str, foreign)),
        missing_directories=tuple(str(row.tag) for row in missing),
        mixed=mixed,
        added_files=tuple(str(layout.model(tag) / path) for tag, paths in found.additions.items() for path in paths),
        kept_files=tuple(map(str, kept_files(layout))),
        tags=tags,
        damaged_trash=tuple(lost_files(workspace, found, deleted=True)) if scope is None else (),
        signatures=signed,
    )


def _damaged_copies(layout: Layout, found: Findings) -> dict[str, str]:
    """By path, the reason for each redundant file that is not what it should be: copies, files of directories,
    manifests, logs."""
    copies = {container.path(layout): reason for container, reason in found.files.items()}
    for tag, paths in found.directories.items():
        for path in paths:
            standing = str(layout.model(tag) / path)
            copies[standing] = (
                f"{standing} is not what was put there; `casstore path {tag}` moves it to {layout.changed_files} and "
                "makes it again"
            )
    for tag, reason in found.manifests.items():
        copies[f"{layout.manifests / tag.name}/{tag.version}"] = reason
    copies |= {str(path): reason for path, reason in [*found.logs.items(), *found.signatures.items()]}
    return {**copies, **found.alias_logs}


def _unknown_holders(workspace: Workspace, found: Findings) -> list[str]:
    """One line for each file that the catalog does not know and that seems to hold a chunk which cannot be read."""
    if not found.chunks:
        return []
    advice = "holds some of what is missing, and the catalog does not know it; `casstore repair` takes it up"
    return [f"{path} {advice}" for path in holders(workspace, found.chunks)]


def lost_files(workspace: Workspace, found: Findings, *, deleted: bool = False) -> list[Damage]:
    """The files of versions, or of deleted ones in the trash, that the damaged chunks make unreadable."""
    affected = workspace.catalog.references.dependents(set(found.chunks), set(), deleted=deleted)
    return [Damage(str(tag), path) for tag, path in affected]
