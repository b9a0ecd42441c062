// PNG files of numbers. A canvas writes colours only.

/** Colour types of PNG. */
const GREY = 0;
const PALETTE = 3;

const CRCS = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/**
 * @param {Uint8Array | Uint16Array} values rows first @param {number} width @param {number} height
 * @param {[number, number, number][]} [palette] the colours that the values stand for
 * @returns {Promise<Uint8Array>}
 */
export async function writePng(values, width, height, palette) {
  const bytes = values.BYTES_PER_ELEMENT;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8 * bytes);
  header.setUint8(9, palette ? PALETTE : GREY);
  // Each row starts with its filter: none.
  const rows = new Uint8Array(height * (1 + width * bytes));
  for (let y = 0, at = 0; y < height; y++) {
    at++;
    if (bytes === 1) {
      rows.set(/** @type {Uint8Array} */ (values).subarray(y * width, (y + 1) * width), at);
      at += width;
      continue;
    }
    for (let x = 0; x < width; x++) {
      const value = values[y * width + x];
      rows[at++] = value >> 8;
      rows[at++] = value;
    }
  }
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const pixels = new Uint8Array(await new Response(packed).arrayBuffer());
  const parts = [
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
    chunk("IHDR", new Uint8Array(header.buffer)),
    ...(palette ? [chunk("PLTE", Uint8Array.from(palette.flat()))] : []),
    chunk("IDAT", pixels),
    chunk("IEND", new Uint8Array()),
  ];
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** @param {string} name @param {Uint8Array} data */
function chunk(name, data) {
  const whole = new Uint8Array(data.length + 12);
  const view = new DataView(whole.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) whole[4 + i] = name.charCodeAt(i);
  whole.set(data, 8);
  let crc = 0xffffffff;
  for (let i = 4; i < data.length + 8; i++) crc = CRCS[(crc ^ whole[i]) & 255] ^ (crc >>> 8);
  view.setUint32(data.length + 8, ~crc >>> 0);
  return whole;
}
