"""Jobs: records, leases, storage, use cases and the Celery worker. It knows no HTTP."""
