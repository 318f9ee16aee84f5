"""`python -m mentorkd`."""

from mentorkd.cli.main import main

main()
