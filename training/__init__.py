"""Trains the small model, which the package ships for demonstrations and tests."""
