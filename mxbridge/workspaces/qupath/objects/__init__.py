"""Objects of an image as a file of their own, in QuPath's GeoJSON: out of a project and into one."""
