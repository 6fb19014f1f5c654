"""`python -m psmr`: the command line."""

from psmr.cli import main

if __name__ == "__main__":
    main()
