"""What `benchmarks/gpu.sh` runs on the day a GPU is at hand; see benchmarks/README.md."""
