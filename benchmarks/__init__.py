"""Measurements of whole commands: CPU seconds, wall seconds and peak memory. ``make bench`` runs them all."""
