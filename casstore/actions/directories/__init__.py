"""The directories under `models/`: making a version's directory, telling whose a directory is and what is wrong in it,
and removing it. Anything that a user or another program has put there is kept, never overwritten.
"""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "changed", "evict", "exposure", "latest", "leavings", "materialize", "pinning", "placing", "presence", "standing",
    "survey",
)  # fmt: skip
