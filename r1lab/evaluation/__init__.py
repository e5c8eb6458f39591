"""Answers to figures: protocols, strict and lenient forms, statistics, comparisons and provenance."""
