"""What ``evaluate`` computes of one image, and what it makes of all of them."""
