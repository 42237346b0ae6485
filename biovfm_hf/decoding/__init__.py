"""One module for each family of file formats that needs more than Pillow; `formats` tells which file goes where."""
