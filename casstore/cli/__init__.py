"""The command line: a face over the facade. Results go to stdout; progress, hints and errors to stderr."""
