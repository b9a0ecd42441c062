"""Trains `small`, the model that the package ships for trying and testing."""
