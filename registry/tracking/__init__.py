"""MLflow: runs, artifacts, cards, errors."""
