"""The tensors of files: which there are, told from recipes, and reading them into memory without any file."""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "arrays", "index", "info", "layouts", "loading", "names", "placed", "unread",
)  # fmt: skip
