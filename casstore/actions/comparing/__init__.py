"""What differs between two versions, or a version and a directory: told from recipes as far as they go, and nothing is
written."""
