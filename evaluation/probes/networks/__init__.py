"""Networks that a probe trains; they need torch, so a probe imports them when it runs."""
