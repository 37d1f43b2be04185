// Folders into one zip, in the browser. Pictures are compressed already, so they are stored as they are.

import { Zip, ZipPassThrough } from "../vendor/fflate.js";

const PICTURE = /\.(jpe?g|png|webp|bmp|gif|tiff?|heic|heif|avif)$/i;
const TABLES = /(^|\/)(metadata\.(jsonl|csv)|labels\.csv|classes\.json)$/i;
const HIDDEN = /(^|\/)(\.|__MACOSX\/)/;

/** Whether the server could use a file; the rest need not travel. */
export function isUseful({ path, file }) {
  return !HIDDEN.test(path) && (PICTURE.test(path) || TABLES.test(path) || file.type.startsWith("image/"));
}

/** Class folders and how many pictures each has: the last folder of each path. */
export function foldersOf(files) {
  const found = new Map();
  for (const { path } of files) {
    const folder = path.split("/").slice(0, -1).pop() ?? "";
    found.set(folder, (found.get(folder) ?? 0) + 1);
  }
  return found;
}

const MOST_BYTES = 2 ** 32 - 2 ** 20;
const MOST_FILES = 65_534;

/** Why files cannot be zipped here, or null: the plain format ends at 4 GiB and 65,534 files. */
export function tooMuch(files) {
  const bytes = files.reduce((sum, one) => sum + one.file.size, 0);
  if (bytes < MOST_BYTES && files.length <= MOST_FILES) return null;
  return "More than 4 GiB or 65,534 files are not zipped in a browser. Zip the folder with a program and drop the zip.";
}

/**
 * Zip files without holding more than a piece of one.
 * @param {{path: string, file: File}[]} files
 * @param {(done: number) => void} onProgress - Files done.
 * @returns {Promise<Blob>}
 */
export async function pack(files, onProgress = () => {}, signal = undefined) {
  const parts = [];
  let failed = null;
  const zip = new Zip((error, chunk) => {
    if (error) failed = error;
    else parts.push(chunk.slice());
  });
  for (const [i, { path, file }] of files.entries()) {
    signal?.throwIfAborted();
    const entry = new ZipPassThrough(path);
    entry.mtime = file.lastModified || Date.now();
    zip.add(entry);
    const reader = file.stream().getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      entry.push(value);
    }
    entry.push(new Uint8Array(0), true);
    if (failed) throw failed;
    onProgress(i + 1);
  }
  zip.end();
  if (failed) throw failed;
  return new Blob(parts, { type: "application/zip" });
}
