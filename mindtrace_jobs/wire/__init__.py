"""The wire format: header names, and jobs as broker messages."""
