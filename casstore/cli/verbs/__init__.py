"""One module a command. Each parses, calls the public interface, and prints."""

from casstore.late import late_modules

__getattr__ = late_modules(__name__, "completion")
