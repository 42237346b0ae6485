"""The marker of a stub README.md, which training writes and `biovfm card` replaces."""

STUB_FIELD = "biovfm_stub"
"""Field of the YAML block, true in a stub; cards that a person wrote do not have it."""
