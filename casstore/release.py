"""The version of casstore, which saved versions record."""

__version__ = "0.1.0"
