"""The script buttons for QuPath: where they come from, what is filled in, and where QuPath's menus find them."""
