"""Pixels: tiles over the wire, the cache that keeps them, and files read in place."""
