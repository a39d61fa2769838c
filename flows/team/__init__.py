"""Modules of one flow on many machines: Prefect's work pools, and what each machine can take."""
