"""Readers of untrusted files: images in limited processes, JSON and YAML with bounds."""
