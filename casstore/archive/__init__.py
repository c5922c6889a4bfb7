"""Archive formats: reading them safely from a stream into a directory, and writing them. Nothing of the store."""
