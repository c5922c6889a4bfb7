"""Giving space back: what no version needs is condemned in the catalog, and unlinked once that is on disk."""

from casstore.late import late_modules

__getattr__ = late_modules(__name__, "apply", "autogc", "collect", "plan", "reclaim", "redundancy", "report")
