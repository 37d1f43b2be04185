// The commands on the page name the address the page was reached by.
const base = location.origin + location.pathname.replace(/\/$/, "");
for (const place of document.querySelectorAll("[data-base]")) place.textContent = base;
