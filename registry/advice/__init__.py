"""Which stored modules to build on for a task, from what is stored: nothing is trained."""
