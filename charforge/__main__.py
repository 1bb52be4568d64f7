"""`python -m charforge` is the `charforge` command."""

from charforge.cli import entry_point

if __name__ == "__main__":
    entry_point()
