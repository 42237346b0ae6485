"""Parts shared by dataset cards and model cards."""
