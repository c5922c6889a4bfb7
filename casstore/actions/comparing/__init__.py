"""What differs between two versions, or a version and a directory: told from recipes as far as they go, and nothing is
written."""

from casstore.late import late_modules

__getattr__ = late_modules(__name__, "diff", "difference", "documents", "paths", "sides", "tensors", "values")
