"""HTTP: routes, schemas, inference and the embedded mode. It knows no Celery."""
