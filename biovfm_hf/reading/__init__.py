"""Files that users name: images in limited processes, JSON and YAML with bounds."""
