"""From files to a committed version: staging, packing and the one transaction; deletion; and keeping drafts that could
not be saved.
"""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "adding", "aside", "background", "commit", "comparing", "delete", "drafts", "finish", "needed", "packing",
    "parentage", "plan", "request", "save", "staging", "storing", "trust", "unchanged", "unsaved",
)  # fmt: skip
