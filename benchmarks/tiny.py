"""The tests' tiny backbone, made without pytest."""

from pathlib import Path

from tests import conftest


class _Factory:
    def __init__(self, root: Path) -> None:
        self.root = root

    def mktemp(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True)
        return folder


def tiny_folder(root: Path) -> Path:
    """Folder of a random Llama of two blocks and width 32 under `root`."""
    made: Path = conftest.tiny_backbone.__wrapped__(_Factory(root))  # type: ignore[attr-defined]
    return made


if __name__ == "__main__":
    print("a helper of other benchmarks: nothing is measured here")
