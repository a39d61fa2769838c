"""Flows on single stored modules: promote one, set one on another."""
