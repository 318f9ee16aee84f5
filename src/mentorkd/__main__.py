"""`python -m mentorkd`."""

from mentorkd.cli import main

main()
