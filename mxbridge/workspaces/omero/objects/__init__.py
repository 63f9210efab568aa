"""Cells from ROIs and label images, and new objects as ROIs."""
