"""`python -m modkernel.flows.cli` is `modkernel`."""

from modkernel.flows.cli import program

program()
