"""How ``qc`` judges the stains of an image, and finds out what is to blame."""
