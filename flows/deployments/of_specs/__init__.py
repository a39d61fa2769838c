"""Deployments of spec files: filled in once, run and scheduled without typing, kept by Prefect.

What is deployed is nowhere but in Prefect's own records, so that a run, a schedule and a restart
all see one truth; whoever serves asks for it every few seconds.
"""
