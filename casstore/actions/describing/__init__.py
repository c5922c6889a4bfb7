"""What a version says of itself: labels, metadata, signatures, context, checked, and `model.yaml`. No files."""
