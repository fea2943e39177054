"""Functional core: decides, and touches nothing. No I/O, no clock, no asyncio, no logging."""
