"""The demonstration that `make demo` runs, and the figures of the documentation."""
