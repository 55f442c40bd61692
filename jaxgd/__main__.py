"""`python -m jaxgd`: the main job; with arguments, the command line."""

import sys

from jaxgd.shell.command import main

if __name__ == "__main__":
    sys.exit(main())
