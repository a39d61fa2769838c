"""Outputs of frozen modules: computed once, cached, measured."""
