"""What ``translate`` does with one image: the maps that its networks make, and everything that follows from those."""
