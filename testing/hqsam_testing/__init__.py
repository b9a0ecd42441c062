"""What tests and benchmarks share. It is not part of the installed package."""
