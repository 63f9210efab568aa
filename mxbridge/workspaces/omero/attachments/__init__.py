"""Files attached to images: tables, label images and others."""
