"""`python -m commbench`, and the installed `commbench`."""

from commbench.cli import main

if __name__ == "__main__":
    main()
