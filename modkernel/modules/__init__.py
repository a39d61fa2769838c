"""A module's parts, its stored form, and networks of stored modules."""
