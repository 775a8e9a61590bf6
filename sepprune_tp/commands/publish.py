"""``sepprune publish``: put a pruned model on the Hugging Face hub, with a page about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepprune_tp.commands.common import note, say

__all__ = ["publish"]


def publish(
    file: Annotated[Path, typer.Argument(help="Model of `sepprune prune` or `finetune`.")],
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where to put it.")],
    report: Annotated[
        Path | None, typer.Option(help="report.json of the job, for the table before and after.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Such as cc-by-sa-4.0; the dense model's licence holds.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Name of the dense model on the hub.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of its training data there.")] = None,
    private: Annotated[bool, typer.Option("--private", help="For your eyes only.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder and upload nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Keep the folder here [dry run: NAME by default]."),
    ] = None,
) -> dict[str, Any]:
    """Put a pruned model on the Hugging Face hub, with a page that says what it is."""
    from sepprune_tp.hub import publish as upload

    name = repo_id.rpartition("/")[2]
    folder = out or (Path(name) if dry_run else None)
    card = {"license": license, "base_model": base_model, "dataset": dataset}
    options = {"report": report, "folder": folder, "private": private, "dry_run": dry_run}
    address = upload(file, repo_id, **options, **card)  # type: ignore[arg-type]
    say(f"Wrote {address}.")
    next_step = f"hf upload {repo_id} {address}" if dry_run else f'load_model("{repo_id}")'
    note(f"Next: {next_step}")
    return {"file": file, "repo_id": repo_id, "dry_run": dry_run, "address": address}
