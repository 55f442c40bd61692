"""`python -m jaxgd`: the main job; with arguments, the command line."""

import sys

from jaxgd.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
