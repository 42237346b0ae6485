"""Reasons why a library could not load a model, each with its remedy."""

from biovfm_hf.errors import one_line


def why_not_loaded(error: Exception, local: bool) -> str:
    """One line of what went wrong, and what to do."""
    text = one_line(error)
    if "preprocessor_config" in text or "image processor" in text.lower():
        return f"{text}; save an image processor into the folder (AutoImageProcessor.save_pretrained)"
    if local:
        return f"{text}; check the folder's config.json and model.safetensors"
    if "Unknown model" in text:
        return f"{text}; timm.list_models() lists them"
    if "unexpected keyword" in text:
        return f"{text}; give keywords that this network of timm has"
    if "gated" in text.lower():
        return f"{text}; accept its terms on its page at huggingface.co, then run: hf auth login"
    cached = (
        "without a network only models on disk can be used: get it where there is one (hf download NAME), and copy"
    )
    return f"{text}; {cached} its folder or the cache (HF_HOME)"
