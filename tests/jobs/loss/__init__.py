"""The loss test: consumers killed, the broker restarted and connections cut under load; then every job is counted.

``python -m tests.jobs.loss --help`` runs it at any size. A reduced size is part of the suite.
"""
