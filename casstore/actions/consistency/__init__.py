"""Whether files and catalog belong together: what is there that no row explains, or is missed, from another moment or
lost. Looked at when a store is opened, before gc takes anything, and by repair.
"""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "alias_log", "deleted", "held", "lost", "moments", "rescuing", "strays", "takeup",
)  # fmt: skip
