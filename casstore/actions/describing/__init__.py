"""What a version says of itself, as `model.yaml` and as callers read it. No files."""
