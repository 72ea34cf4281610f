"""`python -m spf <verb>`."""

from spf.cli import main

if __name__ == "__main__":  # rendering starts worker processes, which import this module again
    main()
