"""`python -m lathe` is `lathe`."""

from lathe.cli import lathe

if __name__ == "__main__":
    lathe()
