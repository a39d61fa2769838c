"""The machine: files written whole, locks, memory, arithmetic, seeds."""
