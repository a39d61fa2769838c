"""Prefect tasks: each has one child process at work."""
