"""Numbered schema changes, applied in order."""
