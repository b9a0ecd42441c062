"""How good masks are, where the right ones are known."""
