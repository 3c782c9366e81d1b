"""Where shipped data lies: beside the package in a checkout, inside it (`flashnas/_shipped`) in an
installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def shipped_root(folder: str) -> Path:
    """`search_spaces`, `latency_tables`, `bench_tables`, `examples` or `experiments` as shipped
    with this version."""
    installed = PACKAGE / "_shipped" / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder


def shipped_names(folder: str, marker: str) -> dict[str, Path]:
    """Shipped entries of `folder`: files with the suffix `marker`, or folders that hold the file
    `marker`.
    """
    root = shipped_root(folder)
    if not root.is_dir():
        return {}
    if marker.startswith("."):
        return {path.stem: path for path in sorted(root.glob(f"*{marker}"))}
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{marker}"))}


def is_shipped(path: str | Path, folder: str) -> bool:
    """True for a file within `folder` as shipped with this version."""
    return Path(path).resolve().is_relative_to(shipped_root(folder).resolve())
