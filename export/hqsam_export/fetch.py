"""Downloads a checkpoint and checks its digest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from hqsam_export.errors import FetchError

HUB_REPOSITORY = "lkeab/hq-sam"
HUB_FILES = {
    "light": "sam_hq_vit_tiny.pth",
    "b": "sam_hq_vit_b.pth",
    "l": "sam_hq_vit_l.pth",
    "h": "sam_hq_vit_h.pth",
}
"""The published checkpoints in the repository, by the name of the model."""

MD5S = {"sam_hq_vit_b.pth": "c6b8953247bcfdc8bb8ef91e36a6cacc"}
"""Published digests. The hub states that of each of its files when it is downloaded, too."""

SHA256_ETAG = re.compile("[0-9a-f]{64}")


def fetch(
    source: str | None = None,
    md5: str | None = None,
    endpoint: str | None = None,
    model: str = "b",
) -> Path:
    """Return the path of a verified checkpoint.

    Args:
        source: None for a published one in its Hugging Face repository, through the
            cache of `huggingface_hub`; or an http(s) URL, through the cache of `pooch`;
            or a file, with ``~`` for the home folder.
        md5: 32 hex digits that the file must have. None for the published ones if the file has
            the name of a published file whose MD5 is known. Without an MD5, a file of the hub must
            have the SHA-256 that the hub states; other files are not checked.
        endpoint: address of a mirror of the Hugging Face hub.
        model: which published checkpoint, a key of `HUB_FILES`.

    Returns:
        the absolute path of the file.

    Raises:
        FetchError: it cannot be downloaded, or has another digest. The user's own files are
            left as they are; an incomplete download is not kept.
    """
    if md5 is not None and not re.fullmatch("[0-9a-fA-F]{32}", md5):
        raise FetchError(f"the MD5 is {md5!r}, expected 32 hex digits")
    if source is None:
        file = HUB_FILES[model]
        path = _from_hub(file, endpoint)
        md5 = md5 or MD5S.get(file)
        return _verified(path, md5) if md5 else _as_the_hub_states(path)
    url = urlsplit(source)
    path = Path(source).expanduser().absolute()
    # A URL's query, such as ?download=true, is no part of the file's name.
    name = unquote(PurePosixPath(url.path).name) if url.netloc else path.name
    md5 = md5 or MD5S.get(name)
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


def _from_hub(file: str, endpoint: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(HUB_REPOSITORY, file, endpoint=endpoint))
    except LocalEntryNotFoundError as error:
        raise FetchError(
            f"the Hugging Face hub cannot be reached and {file} is not in the cache: "
            f"check the network, or download {file} of {HUB_REPOSITORY} elsewhere and "
            "give its path"
        ) from error
    except HfHubHTTPError as error:
        raise FetchError(f"the Hugging Face hub refused {file}: {_first_line(error)}") from error
    except Exception as error:
        # Each major version of huggingface_hub uses another HTTP library and lets its errors
        # through; they have no common base.
        raise FetchError(
            f"the download of {file} failed: {_first_line(error)}. "
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


def _as_the_hub_states(path: Path) -> Path:
    """Check a file of the hub's cache against its etag, which is the SHA-256 of a large file.

    The cache names the file that `path` links to by its etag.
    """
    etag = path.resolve().name
    if SHA256_ETAG.fullmatch(etag):
        found = _digest(path, hashlib.sha256())
        if found != etag:
            raise FetchError(
                f"{path} is not the file that the hub states: its SHA-256 is {found}, expected "
                f"{etag}. Remove it, then run this again"
            )
    return path


def _verified(path: Path, md5: str) -> Path:
    found = _digest(path, hashlib.md5(usedforsecurity=False))
    if found != md5.lower():
        raise FetchError(
            f"{path} is not the expected file: its MD5 is {found}, expected {md5}. It was not "
            "changed"
        )
    return path


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
