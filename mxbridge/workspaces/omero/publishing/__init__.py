"""From results to what stands on the server: parts nobody sees, then one transaction."""
