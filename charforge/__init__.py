"""CharForge: a build system for trained characters."""

__version__ = "0.1.0"
