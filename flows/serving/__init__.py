"""The endpoint: champions over HTTP, rows of all requests in one batch; knows no Prefect."""
