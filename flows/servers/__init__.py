"""The servers of `modkernel up`, and the health of an installation."""
