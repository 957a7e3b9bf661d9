"""Which version of Chattable this is; pyproject.toml is the only place that says it."""

from importlib.metadata import version

VERSION = version("chattable")
