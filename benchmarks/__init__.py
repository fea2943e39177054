"""Benchmarks of tazpod-net beside its peers: `python -m benchmarks`. They judge nothing that a test depends on."""
