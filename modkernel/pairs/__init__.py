"""What is known of pairs of examples: same class, different, or unknown."""
