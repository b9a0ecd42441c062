"""Masks as run lengths: COCO's encoding, read and written with NumPy alone.

COCO counts the pixels of a mask column by column: how many are off, then how many are on, and so
on. Its compressed form writes each count as the difference from the one two before, in groups of
five bits, as printable characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hqsam_client.shared.geometry import Size

_FIRST = 48  # the character of zero
_MORE, _SIGN, _GROUP = 32, 16, 31
_LONGEST = 7  # characters of a count: 35 bits

_ROWS_OF_BAND = 64
_WIDE = 256


class RunLengthsError(ValueError):
    """Run lengths cannot be read, or are too many."""


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A mask by its runs, column by column.

    Attributes:
        counts: int64 [R], numbers of pixels that are off, on, off and so on; the first may be 0.
        size: (height, width) in pixels.
    """

    counts: NDArray[np.int64]
    size: Size

    @classmethod
    def of_rows(
        cls, bands: Iterable[NDArray[np.bool_]], size: Size, most: int | None = None
    ) -> RunLengths:
        """Return the runs of a mask whose rows come band by band; no more than one is kept.

        Args:
            bands: bool [rows, width] each, from top to bottom.
            size: (height, width) in pixels.
            most: runs that there may be; None for any number.

        Raises:
            RunLengthsError: there are more.
        """
        height, width = size
        changes = _Changes(width)
        top = np.zeros(width, np.bool_)
        found: list[NDArray[np.int64]] = []
        row = runs = 0
        for band in bands:
            if row == 0:
                top = band[0].copy()
                changes.begin(top)
            rows, columns = changes.of(band)
            found.append(columns * height + (rows + row))
            runs += len(rows)
            if most is not None and runs > most:
                raise RunLengthsError(f"the mask has more than {most} runs")
            row += len(band)
        last = changes.last
        # Before a column's first pixel comes the last one of the column before.
        before = np.concatenate([[False], last[:-1]])
        found.append(np.flatnonzero(top != before) * height)
        changes_at = np.sort(np.concatenate(found))
        ends = np.concatenate([[0], changes_at, [height * width]])
        return cls(np.diff(ends), size)

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_]) -> RunLengths:
        """Return the runs of a mask, bool [height, width]."""
        height, width = mask.shape
        starts = range(0, height, _ROWS_OF_BAND)
        return cls.of_rows((mask[it : it + _ROWS_OF_BAND] for it in starts), (height, width))

    @classmethod
    def read(cls, text: bytes, size: Size) -> RunLengths:
        """Read COCO's compressed form.

        Args:
            text: the `counts` of COCO's compressed encoding.
            size: (height, width) in pixels.

        Raises:
            RunLengthsError: it is malformed, or of another size.
        """
        codes = np.frombuffer(text, np.uint8).astype(np.int64) - _FIRST
        ends = np.flatnonzero((codes & _MORE) == 0)
        if not len(ends) or ends[-1] != len(codes) - 1 or not ((codes >= 0) & (codes < 64)).all():
            raise RunLengthsError("the run lengths are malformed")
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts + 1
        if lengths.max() > _LONGEST:
            raise RunLengthsError("the run lengths are malformed: a number is too long")
        counts = np.zeros(len(ends), np.int64)
        for group in range(int(lengths.max())):
            has = lengths > group
            counts[has] |= (codes[starts[has] + group] & _GROUP) << (5 * group)
        negative = (codes[ends] & _SIGN) != 0
        counts[negative] |= np.int64(-1) << (5 * lengths[negative])
        counts[1::2] = np.cumsum(counts[1::2])
        counts[2::2] = np.cumsum(counts[2::2])
        if counts[0] < 0 or (counts[1:] < 1).any() or int(counts.sum()) != size[0] * size[1]:
            raise RunLengthsError(f"the run lengths are not those of {size[1]} x {size[0]} pixels")
        return cls(counts, size)

    def text(self) -> bytes:
        """Return COCO's compressed form, printable ASCII."""
        left = self.counts.copy()
        left[3:] -= self.counts[1:-2]
        codes = np.zeros((len(left), _LONGEST), np.uint8)
        lengths = np.zeros(len(left), np.intp)
        going = np.arange(len(left))
        for group in range(_LONGEST):
            code = left[going] & _GROUP
            left[going] >>= 5
            more = left[going] != np.where(code & _SIGN, -1, 0)
            codes[going, group] = code + np.where(more, _MORE, 0) + _FIRST
            lengths[going] = group + 1
            going = going[more]
            if not len(going):
                break
        return codes[np.arange(_LONGEST) < lengths[:, None]].tobytes()

    def mask(self, window: tuple[int, int, int, int] | None = None) -> NDArray[np.bool_]:
        """Return the mask, or its part in a window, as bool [height, width], rows first.

        Args:
            window: (x0, y0, x1, y1) in pixels, not empty and inside the mask.
        """
        height, width = self.size
        if window is None and width < _WIDE:
            on = np.arange(len(self.counts)) % 2 == 1
            return np.ascontiguousarray(np.repeat(on, self.counts).reshape(width, height).T)
        # Where it changes from the row above, then row by row: turning columns of a large mask
        # into rows takes ten times as long.
        x0, y0, x1, y1 = window or (0, 0, width, height)
        changes_at = np.cumsum(self.counts[:-1])
        first = np.arange(x0, x1) * height + y0
        above = np.searchsorted(changes_at, first, side="right")
        columns, rows = divmod(changes_at[above[0] :], height)
        inside = (columns < x1) & (rows > y0) & (rows < y1)
        mask = np.zeros((y1 - y0, x1 - x0), np.bool_)
        mask[rows[inside] - y0, columns[inside] - x0] = True
        mask[0] = above % 2
        for row in range(1, len(mask)):
            np.not_equal(mask[row - 1], mask[row], out=mask[row])
        return mask

    def placed(self, corner: tuple[int, int], size: Size) -> RunLengths:
        """Return the mask of a window as one of the whole image; the rest of it is off.

        Args:
            corner: (x, y) of the window's first pixel in the image.
            size: (height, width) of the image, which contains the window.
        """
        (x0, y0), height = corner, self.size[0]
        edges = np.cumsum(self.counts)
        ends = edges[1::2]
        starts = edges[: 2 * len(ends) : 2]
        # A run that goes on in the next column is a run of its own there.
        first, last = starts // height, (ends - 1) // height
        spans = last - first + 1
        run = np.repeat(np.arange(len(ends)), spans)
        column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(spans) - spans, spans)
        top = np.where(column == first[run], starts[run] % height, 0)
        bottom = np.where(column == last[run], (ends[run] - 1) % height + 1, height)
        in_image = (column + x0) * size[0] + y0
        changes_at = np.stack([in_image + top, in_image + bottom], axis=-1).ravel()
        # A window of all rows: where a run ended, the next one began.
        seams = np.flatnonzero(changes_at[1:] == changes_at[:-1])
        changes_at = np.delete(changes_at, np.concatenate([seams, seams + 1]))
        counts = np.diff(np.concatenate([[0], changes_at, [size[0] * size[1]]]))
        return RunLengths(counts if counts[-1] else counts[:-1], size)

    @cached_property
    def area(self) -> int:
        """Number of pixels that are on."""
        return int(self.counts[1::2].sum())

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """(x0, y0, x1, y1): the first column and row that are on, the first ones after; or None."""
        ends = np.cumsum(self.counts)
        on = self.counts[1::2] > 0
        starts, lasts = ends[:-1:2][on], ends[1::2][on] - 1
        if not len(starts):
            return None
        height = self.size[0]
        x0, x1 = int(starts[0] // height), int(lasts[-1] // height) + 1
        if (starts // height != lasts // height).any():  # over the end of a column
            return x0, 0, x1, height
        return x0, int((starts % height).min()), x1, int((lasts % height).max()) + 1


class _Changes:
    """Finds where a mask's rows differ from those above, eight pixels at a time."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._words = -(-width // 8)
        self._rows = np.zeros((1, 8 * self._words), np.bool_)  # the last row, then a band's

    @property
    def last(self) -> NDArray[np.bool_]:
        """The last row, bool [width]."""
        return self._rows[0, : self._width]

    def begin(self, above: NDArray[np.bool_]) -> None:
        """Say what is above the first band."""
        self.last[:] = above

    def of(self, band: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows and the columns of pixels that differ from those above, [C] each."""
        count = len(band)
        if len(self._rows) <= count:
            grown = np.zeros((count + 1, 8 * self._words), np.bool_)
            grown[0] = self._rows[0]
            self._rows = grown
        self._rows[1 : count + 1, : self._width] = band
        words = self._rows.view(np.uint64)  # [rows, words]
        below, above = words[1 : count + 1], words[:count]
        at = np.flatnonzero(below != above)
        differs = below.reshape(-1)[at] ^ above.reshape(-1)[at]
        which, pixel = np.nonzero(differs.view(np.uint8).reshape(-1, 8))
        self._rows[0] = self._rows[count]
        rows, word = divmod(at[which], self._words)
        return rows, word * 8 + pixel
