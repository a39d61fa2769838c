"""Spec files: read, and the demo's."""
