"""The module search: stage by stage, candidates compete on the same stored modules below."""
