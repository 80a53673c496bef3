"""Entry point of `python -m star_ctr.workflows.cli`, which is the same as `star-ctr`."""

from star_ctr.workflows.cli import main

if __name__ == "__main__":
    main()
