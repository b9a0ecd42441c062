"""The `hqsam` command."""
