"""Downloads a checkpoint and checks its digest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from hqsam_export.errors import FetchError

HUB_REPOSITORY = "lkeab/hq-sam"
HUB_FILE = "sam_hq_vit_b.pth"
HUB_MD5 = "c6b8953247bcfdc8bb8ef91e36a6cacc"


def fetch(source: str | None = None, md5: str | None = None, endpoint: str | None = None) -> Path:
    """Return the path of a verified checkpoint.

    Args:
        source: None for the published ViT-B in its Hugging Face repository, through the
            cache of `huggingface_hub`; or an http(s) URL, through the cache of `pooch`;
            or a file, with ``~`` for the home folder.
        md5: 32 hex digits that the file must have. None for the published ones if the file's
            name is that of the published ViT-B; other files are then not checked.
        endpoint: address of a mirror of the Hugging Face hub.

    Returns:
        the absolute path of the file.

    Raises:
        FetchError: it cannot be downloaded, or has another digest. The user's own files are
            left as they are; an incomplete download is not kept.
    """
    if md5 is not None and not re.fullmatch("[0-9a-fA-F]{32}", md5):
        raise FetchError(f"the MD5 is {md5!r}, expected 32 hex digits")
    if source is None:
        return _verified(_from_hub(endpoint), md5 or HUB_MD5)
    url = urlsplit(source)
    path = Path(source).expanduser().absolute()
    # A URL's query, such as ?download=true, is no part of the file's name.
    name = unquote(PurePosixPath(url.path).name) if url.netloc else path.name
    if md5 is None and name == HUB_FILE:
        md5 = HUB_MD5
    if url.netloc:
        if url.scheme not in ("http", "https"):
            raise FetchError(f"{source} cannot be downloaded: expected http:// or https://")
        return _from_url(source, name, md5)
    if not path.is_file():
        raise FetchError(
            f"there is no file {path}: expected a checkpoint, or a URL, or nothing, for the "
            "published one"
        )
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
        # Each major version of huggingface_hub uses another HTTP library and lets its errors
        # through; they have no common base.
        raise FetchError(
            f"the download of {HUB_FILE} failed: {_first_line(error)}. "
            "Run it again: it continues where it stopped"
        ) from error


def _from_url(url: str, name: str, md5: str | None) -> Path:
    import pooch
    import requests

    known = f"md5:{md5.lower()}" if md5 else None
    try:
        path = pooch.retrieve(url, known, fname=name or None, progressbar=True)
    except requests.ConnectionError as error:
        raise FetchError(
            f"{url} cannot be downloaded: {urlsplit(url).netloc} cannot be reached, or broke off. "
            "Check the address and the network, then run it again"
        ) from error
    except requests.RequestException as error:
        raise FetchError(
            f"{url} cannot be downloaded: {_first_line(error)}. Run it again"
        ) from error
    except ValueError as error:
        # pooch's message names both digests.
        raise FetchError(f"{url} is not the expected file: {error}") from error
    except OSError as error:
        raise FetchError(f"{url} cannot be stored: {error}") from error
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
            f"{path} is not the expected file: its MD5 is {found}, expected {md5}. It was not "
            "changed"
        )
    return path
