"""What a stored module is worth for a task."""
