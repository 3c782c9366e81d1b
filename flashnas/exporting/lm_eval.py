"""lm-evaluation-harness with exported networks registered: `python -m flashnas.exporting.lm_eval
ARGUMENTS OF LM-EVAL`. The harness cannot import a package before it loads a model."""

import sys


def main() -> int:
    """The harness's command line; 2 and one line if it is not installed."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import flashnas.exporting.transformers  # noqa: F401
    except ImportError as error:
        print(f"flashnas.exporting.lm_eval: {error}; pip install 'flashnas[eval]'", file=sys.stderr)
        return 2
    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
