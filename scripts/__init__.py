"""What people and CI run: see the Makefile."""
