"""The order of the steps: the nightly run and the command line."""
