"""`biovfm quickstart`: the whole pipeline on real images that ship inside ordinary packages."""
