"""What a version says of itself, as `model.yaml` and as callers read it. No files."""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__, "capture", "checked", "custom_objects", "model_yaml", "plain_yaml", "read_only", "times"
)
