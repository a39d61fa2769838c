"""Proxy objectives: what training a hidden module maximises."""
