"""One module a command. Each parses, calls the public interface, and prints."""
