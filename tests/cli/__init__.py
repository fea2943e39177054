"""Tests of tazpod-net."""
