"""gc: remove what no version needs. It makes a plan, then applies it; a dry run ends with the plan."""

from __future__ import annotations

from dataclasses import replace

from casstore.actions.gc import autogc
from casstore.actions.gc.apply import apply
from casstore.actions.gc.plan import check_current, plan
from casstore.actions.gc.report import GcOptions, GcReport, GcStep
from casstore.actions.registry import policies
from casstore.actions.workspace import Workspace
from casstore.errors import StoreLocked
from casstore.progress import Progress
from casstore.storage.locks import Lock


def collect(workspace: Workspace, progress: Progress, *, dry_run: bool, wishes: GcOptions) -> GcReport:
    """Run gc. Other processes may save, read and delete meanwhile.

    Raises StoreLocked while another gc runs. Raises StoreError, with nothing removed, if the catalog has neither
    version nor tombstone for some manifest, or if a file that a version needs is missing or cut short.
    """
    workspace.check_writable()
    with Lock(workspace.layout.gc_lock) as lock:
        if not lock.try_acquire():
            raise StoreLocked("another gc is running in this store; wait until it is done")
        check_current(workspace)
        forgotten = policies.apply_all(workspace, dry_run=dry_run)
        if dry_run:
            return _with_policies(plan(workspace, wishes, measured=True).report(), forgotten)
        return _with_policies(apply(workspace, plan(workspace, wishes, measured=False), progress), forgotten)


def collect_if_due(workspace: Workspace, progress: Progress) -> GcReport:
    """Run gc as commits start it. The report has no steps if gc is switched off, not worthwhile, or already running.

    Raises StoreError as `collect` does.
    """
    workspace.check_writable()
    with Lock(workspace.layout.gc_lock) as lock:
        if autogc.is_on(workspace) and lock.try_acquire() and autogc.is_worthwhile(workspace):
            check_current(workspace)
            forgotten = policies.apply_all(workspace, dry_run=False)
            return _with_policies(apply(workspace, plan(workspace, GcOptions(), measured=False), progress), forgotten)
    return GcReport((), dry_run=False)


def _with_policies(report: GcReport, forgotten: int | None) -> GcReport:
    """The report with a step for stored policies, where there are any."""
    if forgotten is None:
        return report
    return replace(report, steps=(GcStep("policies", forgotten), *report.steps))
