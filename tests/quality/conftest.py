"""Quality is looked at on what ingestion made of files, as in data's tests."""

from tests.data.conftest import made

__all__ = ["made"]
