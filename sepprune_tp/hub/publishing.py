"""Publishing a pruned model on the Hugging Face hub, with a page that says what it is."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sepprune_tp.checkpoint import Header, load_pruned, read_header, save_pruned
from sepprune_tp.errors import CheckpointError, InputError, require
from sepprune_tp.files import make_folder, write_text, written
from sepprune_tp.files.extent import is_bounded
from sepprune_tp.hub.model_card import figures_of, model_card
from sepprune_tp.loading.fetching import OURS

__all__ = ["publish", "write_repository"]

Report = Mapping[str, Any] | str | os.PathLike[str] | None


def write_repository(
    model: nn.Module | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    report: Report = None,
    **card: str | None,
) -> Path:
    """Write what belongs into a model's repository: its file, its page, its report.

    Args:
        model: A model, or a file of ``save_pruned``.
        folder: Where to write ``model.safetensors``, ``README.md`` and, if there is a report,
            ``report.json``. It is made if it does not exist.
        repo_id: Where it will be, ``owner/name``.
        report: ``report.json`` of a job, or what is in it; None: what the file tells of itself.
        card: ``license``, ``base_model``, ``dataset`` of ``model_card``.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the file is not one of ours.
        InputError: If the name is malformed, or the report is of another model.
    """
    _check_name(repo_id)
    told, target = _read_report(report), Path(folder)
    with tempfile.TemporaryDirectory() as scratch:
        file = save_pruned(model, Path(scratch) / OURS) if isinstance(model, nn.Module) else model
        header = read_header(file)
        figures = figures_of(told, header, Path(file).name, _params_of(file, header))
        text = model_card(header, repo_id, figures, **card)
        make_folder(target)
        if Path(file).resolve() != (target / OURS).resolve():
            with written(target / OURS) as copied:
                shutil.copyfile(file, copied)
    write_text(target / "README.md", text)
    if told is not None:
        write_text(target / "report.json", json.dumps(told, indent=2) + "\n")
    return target


def publish(
    model: nn.Module | str | os.PathLike[str],
    repo_id: str,
    *,
    report: Report = None,
    folder: str | os.PathLike[str] | None = None,
    private: bool = False,
    dry_run: bool = False,
    **card: str | None,
) -> str:
    """Put a model on the Hugging Face hub, where ``load_model(repo_id)`` finds it.

    Args:
        model: A model, or a file of ``save_pruned``.
        repo_id: ``owner/name``; the repository is made if there is none.
        report: As for ``write_repository``.
        folder: Keep what is uploaded here; a temporary folder if None.
        private: Whether others may not see a repository that is made.
        dry_run: Write the folder and upload nothing; ``folder`` is then needed.
        card: ``license``, ``base_model``, ``dataset`` of ``model_card``.

    Returns:
        The address of the model, or the folder of a dry run.

    Raises:
        CheckpointError: If the file is not one of ours, or the hub cannot be reached or refuses.
        InputError: If an argument is malformed, or the report is of another model.
        MissingExtraError: If huggingface_hub is missing.
    """
    if dry_run:
        if folder is None:
            raise InputError("dry_run=True writes a folder and uploads nothing: pass folder=.")
        return str(write_repository(model, folder, repo_id, report=report, **card))
    hub = require("huggingface_hub", "hub", "Publishing a model")
    constants = require("huggingface_hub.constants", "hub", "Publishing a model")
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{repo_id} is not published: HF_HUB_OFFLINE is set. Unset it, or use dry_run=True."
        )
    with tempfile.TemporaryDirectory() as scratch:
        written = write_repository(model, folder or scratch, repo_id, report=report, **card)
        try:
            api = hub.HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id,
                folder_path=written,
                allow_patterns=[OURS, "README.md", "report.json"],
                commit_message="Add a pruned model",
            )
        except Exception as error:  # of the kinds that there are, each library has its own
            raise CheckpointError(_refused(repo_id, constants.ENDPOINT, error)) from error
    return f"{constants.ENDPOINT}/{repo_id}"


def _refused(repo_id: str, endpoint: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or "Token" in type(error).__name__:
        advice = f"Log in with a token that may write to {repo_id.partition('/')[0]}: hf auth login"
    else:
        advice = (
            "Is there a network? Otherwise write the folder with dry_run=True and upload it where "
            f"there is one: hf upload {repo_id} FOLDER"
        )
    said = f"{type(error).__name__}: {reason}"
    return f"{repo_id} is not published: {endpoint} did not take it ({said}). {advice}"


def _check_name(repo_id: str) -> None:
    owner, slash, name = repo_id.partition("/")
    usual = all(
        part and part.replace("-", "").replace("_", "").replace(".", "").isalnum()
        for part in (owner, name)
    )
    if not slash or not usual:
        raise InputError(
            f"{repo_id!r} is no name of a repository. It is owner/name, of letters, digits, '-', "
            "'_' and '.', such as me/ConvTasNet-half."
        )


def _read_report(report: Report) -> Mapping[str, Any] | None:
    if report is None or isinstance(report, Mapping):
        return report
    try:
        read = json.loads(Path(report).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"The report {report} cannot be read ({error}). Give the report.json of a job."
        ) from error
    if not isinstance(read, dict) or not is_bounded(read, 10_000_000):
        raise InputError(
            f"The report {report} holds no object, or a deep one. Give the report.json of a job."
        )
    return read


def _params_of(file: str | os.PathLike[str], header: Header) -> int | None:
    """Parameters of a model on disk; None if only its own class could tell them from buffers."""
    if header.architecture.get("family") != "asteroid":
        return None
    return sum(p.numel() for p in load_pruned(file).parameters())
