"""Calls to the Hugging Face Hub: retried if they fail for a moment, avoided if they are not needed."""
