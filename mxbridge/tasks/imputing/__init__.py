"""What ``impute`` does with one image, and which models it takes for that."""
