"""`python -m sled` is the `sled` command."""

from sled.cli import main

if __name__ == "__main__":
    main()
