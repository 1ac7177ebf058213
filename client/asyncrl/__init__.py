"""The command and the Python client of asyncrl."""

__version__ = "0.1.0"
