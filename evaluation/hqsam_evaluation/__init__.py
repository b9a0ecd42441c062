"""Scores masks where the true ones are known: reading data sets, measures, protocol."""
