"""The lab: Go sources of the control server, and the script that builds all Go programs of the tests."""
