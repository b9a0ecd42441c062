"""A web page for an HQ-SAM server: click on an object to get its mask."""
