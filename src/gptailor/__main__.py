"""``python -m gptailor``: the command line."""

from gptailor.cli import main

if __name__ == "__main__":
    main()
