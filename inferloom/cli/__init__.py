"""The command `inferloom`: thin commands over the other rooms."""

from inferloom.cli.main import main

__all__ = ["main"]
