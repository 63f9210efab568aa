// Compiled already.
