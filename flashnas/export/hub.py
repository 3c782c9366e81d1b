"""Upload of an export to a model hub, by huggingface_hub."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashnas.base.errors import ExportError
from flashnas.base.foreign import check_regular
from flashnas.base.hints import printable
from flashnas.export.card import CARD, add_evaluation, read_card
from flashnas.export.exporter import export_network
from flashnas.export.source import load_source, weights_folder
from flashnas.runs.trained import ModelEvaluation

MEANING = {401: "the hub does not accept the token; run hf auth login, or set HF_TOKEN to a valid one",
           403: "the token may not write there; take one with the role `write`, or another repository",
           404: "the hub has no such repository, user or organisation"}
NO_LICENCE = "no licence is named, so that nobody may use the weights; --license names one"
MAX_LINE = 300            # characters of what the hub or its client says


def push_model(model: str, repo: str, *, licence: str | None, private: bool, revision: str | None,
               dry_run: bool) -> dict[str, Any]:
    """See `flashnas.push_to_hub`."""
    from huggingface_hub.utils import validate_repo_id

    with hub_errors(repo):
        validate_repo_id(repo)
    with tempfile.TemporaryDirectory(prefix="flashnas-push-") as temporary:
        folder = Path(model)
        if weights_folder(folder) is not None:
            folder = Path(temporary) / repo.rpartition("/")[2]
            export_network(load_source(model), "hf", folder)
        card = read_card(folder)
        card.text = _renamed(card.text, folder.resolve().name, repo)
        if evaluation := ModelEvaluation.read(folder):
            add_evaluation(card, evaluation)
        if card.data.get("eval_results"):
            card.data["model_name"] = repo.rpartition("/")[2]
        if licence is not None:
            card.data["license"] = licence
        files = _files(folder)
        content = str(card)
        notes = [] if card.data.get("license") else [NO_LICENCE]
        url = None if dry_run else _upload(repo, files, content, private, revision)
        sizes = {name: path.stat().st_size for name, path in files.items()}
    return {"repo": repo, "url": url, "files": {**sizes, CARD: len(content.encode())}, "card": content,
            "notes": notes}


def _renamed(text: str, name: str, repo: str) -> str:
    """The card's text with the repository in place of the folder where the model is loaded."""
    before, load, rest = text.partition("\n## Load\n")
    section, end, after = rest.partition("\n## ")
    section = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w-])", lambda _: repo, section)
    return before + load + section + end + after


def _files(folder: Path) -> dict[str, Path]:
    """The files by their names in the repository, without hidden ones. ExportError for a link, through which
    another file would be published, and for what is not a regular file."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: check_regular(path, ExportError, write=True) for name, path in names.items()
            if not any(part.startswith(".") for part in name.split("/"))}


def _upload(repo: str, files: dict[str, Path], card: str, private: bool, revision: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise ExportError("push needs a token of the hub: run hf auth login, or set HF_TOKEN")
    api = HfApi(library_name="flashnas")
    with hub_errors(repo):
        full = api.create_repo(repo, private=private or None, exist_ok=True).repo_id
        if private and not api.model_info(full).private:
            raise ExportError(f"{full}: is public already, and --private does not change that; change it on"
                              " the hub, or take another repository")
        if revision is not None:
            api.create_branch(full, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, card.encode() if name == CARD else path)
                      for name, path in files.items()]
        commit = api.create_commit(full, operations, commit_message="Upload by flashnas", revision=revision)
    return str(commit.commit_url)


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Raise ExportError in one line for whatever huggingface_hub raises within the block."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except ExportError:
        raise
    except HFValidationError as error:
        raise ExportError(f"repo {repo!r}: must be NAME or USER/NAME: {_line(error)}") from None
    except Exception as error:  # errors of HTTP and of the network, RuntimeError around them, ValueError
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            said = MEANING.get(status) or cause.server_message or _line(cause)
            raise ExportError(f"{repo}: {said} ({status} of {constants.ENDPOINT})") from None
        if isinstance(cause, (HfHubHTTPError.__bases__[0], ConnectionError)):  # of the library for HTTP
            raise ExportError(f"{constants.ENDPOINT}: cannot be reached: {_line(cause)}") from None
        raise ExportError(f"{repo}: cannot be uploaded: {_line(cause)}") from None


def _line(error: BaseException) -> str:
    """What an error says, in one line."""
    return printable(" ".join(str(error).split()) or type(error).__name__)[:MAX_LINE]
