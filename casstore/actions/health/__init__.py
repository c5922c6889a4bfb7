"""Finding damage (verify), healing it from whatever else holds the bytes (repair), and rebuilding the catalog."""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "containers", "donors", "findings", "healing", "inspection", "rebuild", "repair", "verify",
)  # fmt: skip
