// Files and folders that a person drops, picks or pastes, as a list of { path, file }.

async function entriesOf(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) { // it gives at most a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    found.push(...some);
  }
}

async function walk(entry, prefix = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path: prefix + entry.name, file }];
  }
  const inside = [];
  for (const one of await entriesOf(entry)) inside.push(...(await walk(one, `${prefix}${entry.name}/`)));
  return inside;
}

/** What was dropped, folders walked through. */
export async function droppedFiles(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  // Entries must all be taken before the first await: the list is emptied when the event is over.
  const entries = items.map((item) => item.webkitGetAsEntry?.() ?? null);
  const loose = items.map((item) => item.getAsFile());
  const found = [];
  for (const [i, entry] of entries.entries()) {
    if (entry) found.push(...(await walk(entry)));
    else if (loose[i]) found.push({ path: loose[i].name, file: loose[i] });
  }
  return found;
}

/** What was chosen with an `<input type=file>`. */
export function chosenFiles(input) {
  return [...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

/** Pictures of a paste. */
export function pastedPictures(event) {
  return [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

/**
 * Let an area take drops.
 * @param {(files: {path: string, file: File}[]) => void} take
 */
export function acceptDrops(area, take) {
  let depth = 0;
  const over = (on) => area.classList.toggle("over", on);
  area.addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    over(true);
  });
  area.addEventListener("dragover", (event) => event.preventDefault());
  area.addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) over(false);
  });
  area.addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    over(false);
    take(await droppedFiles(event.dataTransfer));
  });
}
