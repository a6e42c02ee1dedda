"""A laboratory for robust preference optimisation."""

__version__ = "0.1.0"
