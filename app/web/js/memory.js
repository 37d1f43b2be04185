// What the browser keeps between visits. Where it may keep nothing, the page does without.

function of(name) {
  try {
    return window[name];
  } catch {
    return null; // blocked by the person or by a policy
  }
}

/** A store by name, `localStorage` or `sessionStorage`, that never throws. */
export function memory(name) {
  const store = of(name);
  const spare = new Map();
  const safely = (work, otherwise) => {
    try {
      return store ? work() : otherwise();
    } catch {
      return otherwise();
    }
  };
  return {
    get: (key) => safely(() => store.getItem(key), () => spare.get(key) ?? null),
    set: (key, value) => safely(() => store.setItem(key, value), () => spare.set(key, value)),
    remove: (key) => safely(() => store.removeItem(key), () => spare.delete(key)),
  };
}
