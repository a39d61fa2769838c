"""What people look at: artifacts in Prefect, figures."""
