"""Loads and checks recipes from YAML files and `key=value` settings."""
