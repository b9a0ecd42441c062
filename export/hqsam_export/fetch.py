"""Gets a checkpoint and makes sure that it is the one that was meant."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hqsam_export.errors import FetchError

HUB_REPOSITORY = "lkeab/hq-sam"
HUB_FILE = "sam_hq_vit_b.pth"
HUB_MD5 = "c6b8953247bcfdc8bb8ef91e36a6cacc"


def fetch(source: str | None = None, md5: str | None = None, endpoint: str | None = None) -> Path:
    """Return the path of a verified checkpoint.

    Args:
        source: None for the published ViT-B in its Hugging Face repository, through the
            cache of `huggingface_hub`; or an http(s) URL, through the cache of `pooch`;
            or a file.
        md5: 32 hex digits that the file must have; known for the published ViT-B, which
            is what None asks for when the file's name is that of ViT-B.
        endpoint: address of a mirror of the Hugging Face hub.

    Raises:
        FetchError: it cannot be had, or has another digest. Nothing of the user's is
            deleted then; a broken download is not kept.
    """
    if source is None:
        return _verified(_from_hub(endpoint), md5 or HUB_MD5)
    if md5 is None and source.rsplit("/", 1)[-1] == HUB_FILE:
        md5 = HUB_MD5
    if source.startswith(("http://", "https://")):
        return _from_url(source, md5)
    path = Path(source)
    if not path.is_file():
        raise FetchError(f"no file at {path}: expected a checkpoint, a URL, or nothing at all")
    return _verified(path, md5) if md5 else path


def _from_hub(endpoint: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(HUB_REPOSITORY, HUB_FILE, endpoint=endpoint))
    except LocalEntryNotFoundError as error:
        raise FetchError(
            f"the Hugging Face hub cannot be reached and {HUB_FILE} is not in the cache: "
            f"check the network, or download {HUB_FILE} of {HUB_REPOSITORY} elsewhere and "
            "give its path"
        ) from error
    except HfHubHTTPError as error:
        raise FetchError(
            f"the Hugging Face hub refused {HUB_FILE}: {_first_line(error)}"
        ) from error
    except Exception as error:
        # Each major version of huggingface_hub has another HTTP library, and lets its
        # errors through; they share no base with each other.
        raise FetchError(
            f"the download of {HUB_FILE} failed: {_first_line(error)}. "
            "Run it again: it goes on where it broke off"
        ) from error


def _from_url(url: str, md5: str | None) -> Path:
    import pooch
    import requests

    name = url.rsplit("/", 1)[-1].split("?", 1)[0]
    known = f"md5:{md5}" if md5 else None
    try:
        path = pooch.retrieve(url, known, fname=name, progressbar=True)
    except requests.RequestException as error:
        raise FetchError(f"cannot download {url}: {_first_line(error)}. Run it again") from error
    except ValueError as error:
        # pooch's message names both digests.
        raise FetchError(f"{url} is not the file that was meant: {error}") from error
    except OSError as error:
        raise FetchError(f"cannot store {url}: {error}") from error
    return Path(path)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _verified(path: Path, md5: str) -> Path:
    with path.open("rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if found != md5.lower():
        raise FetchError(
            f"{path} is not the file that was meant: its MD5 is {found}, expected {md5}. "
            "It was left where it is"
        )
    return path
