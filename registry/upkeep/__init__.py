"""Keeping the two stores whole and small: what was left half-done, what nothing needs."""
