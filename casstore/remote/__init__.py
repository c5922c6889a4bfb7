"""A bucket as packs, segments, refs and pushes: what stands in a remote, and the protocol by which it changes.

The rule: nothing here knows of a local store. It is told keys and bytes, and gives keys and bytes; what is chosen to
travel, and what becomes of what came, is for `actions`. Everything is written once under a name that is never used
again, and state goes forward by creating the next object, so that *create if absent* is the only condition needed.
"""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "address", "backend", "bucket", "collect", "credentials", "deleting", "directory", "documents", "fetching", "keys",
    "loop", "object_store", "once", "other_places", "probe", "pushing", "reading", "records", "repacking", "segment",
    "summing_up", "transfers", "unconditional", "verifying",
)  # fmt: skip
