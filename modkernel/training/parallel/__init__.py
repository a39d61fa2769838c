"""One module on several devices of a machine: a process each, and the whole batch's objective."""
