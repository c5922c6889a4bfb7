"""SQL, all of it: the tags, files, chunks and containers that are committed, and what is known of directories.

Every statement stands in this folder, and every row is checked as it is decoded. Nothing here opens a file of the
store but the catalog.
"""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "aliases", "annotations", "backups", "commits", "deletions", "events", "freed", "mending", "query", "remotes",
    "repacking", "restoring", "retention", "search", "sha256", "trash", "upkeep", "usage",
)  # fmt: skip
