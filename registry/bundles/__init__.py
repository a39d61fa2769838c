"""Bundles: a module or a network, with all that it stands on, in one file."""
