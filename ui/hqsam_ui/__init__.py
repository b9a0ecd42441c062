"""A web page on a running HQ-SAM server: click on an object, see its mask."""
