"""The pictures that the page's server has at hand: few, and any of them may go."""

from __future__ import annotations

from collections import OrderedDict

from hqsam_client.async_client import AsyncRemoteImage

from hqsam_ui.errors import UnknownPictureError


class Pictures:
    """Opened pictures by `image_id`; the least recently used make room for others.

    Nothing is lost with them: the browser keeps the file and sends it again.

    Args:
        budget_bytes: what their files may take in all. The newest stays in any case.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._pictures: OrderedDict[str, AsyncRemoteImage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, picture: AsyncRemoteImage) -> None:
        """Keep a picture, as the newest."""
        if picture.image_id not in self._pictures:
            self._bytes += _size_bytes(picture)
        self._pictures[picture.image_id] = picture
        self._pictures.move_to_end(picture.image_id)
        while self._bytes > self._budget_bytes and len(self._pictures) > 1:
            _, evicted = self._pictures.popitem(last=False)
            self._bytes -= _size_bytes(evicted)

    def get(self, image_id: str) -> AsyncRemoteImage:
        """Return a picture.

        Raises:
            UnknownPictureError: it is not, or no longer, here.
        """
        if image_id not in self._pictures:
            raise UnknownPictureError(image_id)
        self._pictures.move_to_end(image_id)
        return self._pictures[image_id]


def _size_bytes(picture: AsyncRemoteImage) -> int:
    return len(picture._upload.encoded)
