// Runs before the page is drawn, so that a chosen theme does not flash in the other one first.
try {
  const chosen = localStorage.getItem("npt-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // a browser that keeps nothing has the theme of the system
}
