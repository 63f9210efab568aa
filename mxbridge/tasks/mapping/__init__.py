"""From a slide to its maps, the images that a translator makes of it: window by window, onto disk."""
