"""From segmentation images to nuclei, their classes and a score: arrays in, arrays out, however large the slide."""
