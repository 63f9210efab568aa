"""Results for an image that is open in QuPath: written down as a file that a script there applies to the live objects."""
