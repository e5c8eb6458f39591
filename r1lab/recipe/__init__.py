"""A recipe: YAML files and `key=value` settings to a checked recipe."""
