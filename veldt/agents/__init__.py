"""How to act, and what to minimise."""
