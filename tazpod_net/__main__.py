"""`python -m tazpod_net`."""

from tazpod_net.launcher import main

main()
