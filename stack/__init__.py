"""A team's stack: PostgreSQL, Redis, Prefect, MLflow with accounts, and workers.

`docker-compose.yml` runs it in containers, `python -m stack up` runs the same processes on loopback without Docker.
Both take the same passwords under the same names (`.env.example`), the same databases (`databases.sql`) and the same
MLflow accounts. Nothing here is imported by the factory, which knows a stack by environment variables alone.
"""
