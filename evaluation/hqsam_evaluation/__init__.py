"""Scores masks where the true ones are known: reading data sets, measures, protocol.

It needs the extra `evaluate`.
"""
