"""Chunks into packs, whoever brings them: what they are stored against, the writing of packs, and their fsyncs."""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "bases", "blob_checks", "builder", "chains", "durability", "estimate", "freshness", "receiving", "repack",
    "sending",
)  # fmt: skip
