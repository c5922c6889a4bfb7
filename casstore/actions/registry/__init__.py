"""What people say about versions beside their content: names that move, what is known later, where they came from."""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "aliases", "annotating", "forgetting", "history", "likeness", "lineage", "policies", "policy_log", "retention",
    "rules", "searching", "trash",
)  # fmt: skip
