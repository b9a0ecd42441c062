"""Image files of strangers are decoded in processes that have a budget."""
