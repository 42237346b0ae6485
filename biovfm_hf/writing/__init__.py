"""Writing of files: whole or not at all, with locks if several processes share them."""
