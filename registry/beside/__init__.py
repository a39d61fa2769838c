"""What is kept beside modules: moments, ground truths, checkpoints, tables of examples."""
