"""Files that are written: whole or not at all, and locked where several processes share them."""
