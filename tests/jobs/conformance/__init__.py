"""The contract of a backend, one file for each, so that the processes of a test run share them."""
