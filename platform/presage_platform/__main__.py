"""`python -m presage_platform` is the command `platform`."""

from presage_platform.cli import main

main()
