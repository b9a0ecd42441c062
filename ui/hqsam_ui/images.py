"""The images that the page's server holds in memory."""

from __future__ import annotations

from collections import OrderedDict

from hqsam_client import AsyncRemoteImage

from hqsam_ui.errors import PageError


class Images:
    """A cache of opened images by `image_id`; the least recently used are dropped first.

    A dropped image is not lost: the browser keeps the file and sends it again.

    Args:
        budget_bytes: total size of the encoded files. The newest image always stays.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._images: OrderedDict[str, AsyncRemoteImage] = OrderedDict()

    def add(self, image: AsyncRemoteImage) -> None:
        """Keep an image as the newest."""
        if image.image_id not in self._images:
            self._bytes += len(image.encoded)
        self._images[image.image_id] = image
        self._images.move_to_end(image.image_id)
        while self._bytes > self._budget_bytes and len(self._images) > 1:
            _, dropped = self._images.popitem(last=False)
            self._bytes -= len(dropped.encoded)

    def get(self, image_id: str) -> AsyncRemoteImage:
        """Return an image.

        Raises:
            PageError: "unknown-image": it was never sent, or has been dropped.
        """
        if image_id not in self._images:
            raise PageError(404, "unknown-image", f"image {image_id[:12]}… is not here: send it")
        self._images.move_to_end(image_id)
        return self._images[image_id]
