"""The worker's side: Celery's consumer and requests, made to keep every job. Loaded by workers only."""
