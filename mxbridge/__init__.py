"""mxbridge: marker models for whole slides, from and to QuPath, OMERO and OME files."""
