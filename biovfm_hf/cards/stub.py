"""The mark of a model's README.md that training wrote: a few lines that `biovfm card` replaces."""

STUB_FIELD = "biovfm_stub"
"""Field of the YAML block, true in a stub; whoever writes a card of their own leaves it out."""
