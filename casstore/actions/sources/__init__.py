"""What a save is given: files of the caller, before anything of the store is touched."""

from casstore.late import late_modules

__getattr__ = late_modules(__name__, "homes", "hugging_face", "ignoring", "origins", "source")
