"""What a process that runs flows shares: stores, events, interrupts."""
