"""Evaluation: protocols, strict and lenient formats, statistics, comparisons and provenance."""
