"""Decodes clicks in the process of `segment`."""
