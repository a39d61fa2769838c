"""One job in a child process, and the devices it may take."""
