"""What ``translate`` does with the maps of one image: where they come from, nuclei, classes, scores, tables, pictures."""
