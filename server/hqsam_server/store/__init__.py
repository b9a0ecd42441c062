"""The embedding store: a folder of files that processes share."""
