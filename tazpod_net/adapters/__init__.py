"""Imperative edge: each module wraps one outside thing, reports events, holds no policy."""
