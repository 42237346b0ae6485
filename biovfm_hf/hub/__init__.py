"""Calls to the Hugging Face Hub: retried after passing failures, avoided if they are not needed."""
