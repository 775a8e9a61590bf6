"""Models by the name of a hub or an address: from caches first, and never for long from a network.

Where Asteroid keeps what it downloads (``ASTEROID_CACHE``) and where huggingface_hub does
(``HF_HOME``, ``HF_HUB_CACHE``) is looked at; what is downloaded goes where Asteroid would put it.
``HF_HUB_OFFLINE`` and ``HF_ENDPOINT`` hold.
"""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from sepprune_tp.errors import CheckpointError, InputError, require
from sepprune_tp.files import make_folder, written
from sepprune_tp.files.extent import short

__all__ = ["Fetched", "fetch", "is_hub_name", "is_url"]

OURS = "model.safetensors"
"""Name of a model of ours in a repository of the Hugging Face hub."""
LARGEST = 1 << 33
"""Bytes that no model has; a server may go on for ever."""
TIMEOUT = 10.0
"""Seconds that a server has for its answer."""
_NAME = re.compile(r"[\w.-]+/[^/\\:@\s]+(@[\w./-]+)?")
_PLAIN = re.compile(r"\w[\w.+=-]{0,199}")
_FILES = (".pth", ".pt", ".bin", ".ckpt", ".th", ".tar", ".safetensors", ".onnx", ".pkl", ".zip")


@dataclass(frozen=True)
class Fetched:
    """A file on this machine.

    Attributes:
        path: Where it is.
        sample_rate: In Hz, what Asteroid knows of the model by its name; None for most.
    """

    path: Path
    sample_rate: float | None = None


def is_url(source: str) -> bool:
    """Whether a text is an address."""
    return source.startswith(("https://", "http://"))


def is_hub_name(source: str) -> bool:
    """Whether a text looks like ``owner/name`` or ``owner/name@revision``, and not like a file."""
    looks = _NAME.fullmatch(source) is not None and not source.startswith((".", "-"))
    return looks and not source.lower().endswith(_FILES)


def fetch(source: str) -> Fetched:
    """The file of a model, downloaded if no cache has it.

    Args:
        source: A name of the Hugging Face hub, with or without ``@revision``, one of Asteroid's
            names for models on Zenodo, or an address.

    Raises:
        CheckpointError: If no cache has it and it cannot be downloaded.
        MissingExtraError: If Asteroid, which knows names and cache, cannot be imported.
    """
    purpose = f"Finding the model {source}"
    asteroid = require("asteroid.utils.hub_utils", "asteroid", purpose)
    hub = require("huggingface_hub", "asteroid", purpose)
    for part in ("constants", "errors", "utils"):  # attributes of the package once imported
        require(f"huggingface_hub.{part}", "asteroid", purpose)
    if is_url(source):
        inside = _hub_part(source, hub)
        if inside is None:
            return Fetched(_from_url(source, source, asteroid, hub))
        source = inside
    if source in asteroid.MODELS_URLS_HASHTABLE:
        path = _from_url(asteroid.MODELS_URLS_HASHTABLE[source], source, asteroid, hub)
        return Fetched(path, asteroid.SR_HASHTABLE.get(source))
    name, _, revision = source.partition("@")
    return Fetched(_from_hub(name, revision or None, asteroid, hub))


def _hub_part(url: str, hub: Any) -> str | None:
    """The name in the address of a hub's page of a model; None for other addresses."""
    for home in (hub.constants.ENDPOINT, hub.constants.HUGGINGFACE_CO_URL_HOME):
        rest = url.removeprefix(f"{home.rstrip('/')}/").rstrip("/")
        found = re.fullmatch(r"([^/?#]+/[^/?#]+)(?:/tree/([^/?#]+))?", rest)
        if rest != url.rstrip("/") and found and not is_url(rest):
            return found[1] + (f"@{found[2]}" if found[2] else "")
    return None


# -- the Hugging Face hub -------------------------------------------------------------------------


def _from_hub(name: str, revision: str | None, asteroid: Any, hub: Any) -> Path:
    """Our file of a repository, or Asteroid's."""
    caches = [Path(asteroid.CACHE_DIR), Path(hub.constants.HF_HUB_CACHE)]
    files = (OURS, hub.constants.PYTORCH_WEIGHTS_NAME)
    try:
        hub.utils.validate_repo_id(name)
    except hub.errors.HFValidationError as error:
        raise CheckpointError(
            f"{name} is no file here, not one of Asteroid's names, and cannot be a name on the "
            f"Hugging Face hub: {error}"
        ) from error
    cached = _cached(name, revision, files, caches, hub)
    if hub.constants.HF_HUB_OFFLINE:
        if cached is None:
            raise CheckpointError(_nowhere(name, revision, caches, hub, "HF_HUB_OFFLINE is set"))
        return cached
    try:
        return _downloaded(name, revision, files, caches[0], hub)
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
        if cached is not None:
            return cached
        raise CheckpointError(_refused(name, revision, hub, error)) from error
    except Exception as error:  # of the kinds that there are, each library has its own
        if _lacks_file(error, hub):
            raise CheckpointError(
                f"{name} on {hub.constants.ENDPOINT} has neither {files[0]} (ours) nor {files[1]} "
                "(Asteroid's). Is it a model of Asteroid? Otherwise load it where it came from, or "
                "name a function that builds it, as module:function."
            ) from error
        if cached is not None:
            return cached
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise CheckpointError(_nowhere(name, revision, caches, hub, reason)) from error


def _cached(
    name: str, revision: str | None, files: tuple[str, ...], caches: list[Path], hub: Any
) -> Path | None:
    for cache in caches:
        for file in files:
            try:
                found = hub.try_to_load_from_cache(name, file, cache_dir=cache, revision=revision)
            except (OSError, ValueError):  # a reference that is none
                continue
            if isinstance(found, str) and Path(found).resolve().is_relative_to(cache.resolve()):
                return Path(found)
    return None


def _downloaded(
    name: str, revision: str | None, files: tuple[str, ...], cache: Path, hub: Any
) -> Path:
    """The first of the files that the hub has; one question each, so that no network is found out.

    (``hf_hub_download`` alone asks again and again.)
    """
    missing: Exception | None = None
    for file in files:
        url = hub.hf_hub_url(name, file, revision=revision)
        try:
            told = hub.get_hf_file_metadata(url, timeout=TIMEOUT)
        except hub.errors.EntryNotFoundError as error:
            missing = error
            continue
        # They become names of files in the cache, and huggingface_hub takes them as they are.
        if not _PLAIN.fullmatch(told.etag or "") or not _PLAIN.fullmatch(told.commit_hash or ""):
            raise OSError("it names a version in a way that no hub does")
        options = {"revision": revision, "etag_timeout": TIMEOUT, "cache_dir": cache}
        return Path(hub.hf_hub_download(name, file, **options))
    raise missing or hub.errors.EntryNotFoundError(name)


def _lacks_file(error: Exception, hub: Any) -> bool:
    """Whether a hub said so (and not a cache, while the hub could not be asked)."""
    errors = hub.errors
    lacks = isinstance(error, errors.EntryNotFoundError)
    return lacks and not isinstance(error, errors.LocalEntryNotFoundError)


def _refused(name: str, revision: str | None, hub: Any, error: Exception) -> str:
    at = f"{name} at {revision}" if revision else name
    if isinstance(error, hub.errors.GatedRepoError):
        return (
            f"{at} on {hub.constants.ENDPOINT} is gated. Accept its conditions in a browser, then "
            "run: hf auth login"
        )
    return (
        f"{at} is no file in {Path.cwd()}, and {hub.constants.ENDPOINT} has no such model or "
        f"revision, or none that you may see ({_first_line(error)}). Check the spelling; for a "
        "private model run: hf auth login"
    )


def _nowhere(name: str, revision: str | None, caches: list[Path], hub: Any, reason: str) -> str:
    """Message for a model that is in no cache while the hub cannot be reached."""
    weights = hub.constants.PYTORCH_WEIGHTS_NAME
    url = hub.hf_hub_url(name, weights, revision=revision)
    folder = "models--" + name.replace("/", "--")
    return (
        f"{name} is no file in {Path.cwd()}, not in the caches "
        f"{' and '.join(map(str, dict.fromkeys(caches)))}, and {hub.constants.ENDPOINT} cannot be "
        f"asked ({reason}). Where there is a network, download {url} (or {OURS} there) and give "
        f"that file instead, or copy the folder {folder} of such a cache here. Of a mirror: set "
        "HF_ENDPOINT."
    )


# -- addresses ------------------------------------------------------------------------------------


def _from_url(url: str, source: str, asteroid: Any, hub: Any) -> Path:
    """The file at an address, in Asteroid's cache."""
    target: Path = Path(asteroid.CACHE_DIR) / asteroid.url_to_filename(url) / "model.pth"
    if target.is_file():
        return target
    try:
        if hub.constants.HF_HUB_OFFLINE:
            raise InputError("HF_HUB_OFFLINE is set")
        make_folder(target.parent)
        _download(url, target)
    except (OSError, ValueError, HTTPException) as error:
        raise CheckpointError(
            f"{source} is not in Asteroid's cache, and {url} cannot be downloaded "
            f"({_first_line(error)}). Where there is a network, download it and give that file "
            f"instead, or put it at {target}"
        ) from error
    return target


def _download(url: str, target: Path) -> None:
    """Write what is at an address to a file, whole or not at all."""
    request = urllib.request.Request(url, headers={"User-Agent": "sepprune-tp"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT) as answer,
        written(target) as scratch,
        scratch.open("wb") as file,
    ):
        told = answer.headers.get("Content-Length")
        while part := answer.read(1 << 20):
            file.write(part)
            if file.tell() > LARGEST:
                raise OSError(f"it is larger than {LARGEST} bytes, which no model is")
        if told is not None and file.tell() != int(told):
            raise OSError(f"it ended after {file.tell()} of {told} bytes")


def _first_line(error: Exception) -> str:
    return short((str(error).strip() or type(error).__name__).splitlines()[0])
