// Keys: / to the search field, j and k (or arrows) through the rows of a table, Enter to the row's link, Escape out of a field.
"use strict";

addEventListener("keydown", (event) => {
  const field = event.target.closest("input, textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (event.key === "/") {
    const search = document.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  } else if (event.key === "j" || event.key === "k" || (event.key.startsWith("Arrow") && event.target.closest("tr[data-row]"))) {
    const step = { j: 1, k: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); move(step); }
  } else if (event.key === "Enter" && event.target.matches("tr")) {
    event.target.querySelector("a[href]")?.click();
  } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    if (event.target.closest(".scroll")) return;
    document.querySelector(event.key === "ArrowLeft" ? "a[rel=prev]" : "a[rel=next]")?.click();
  }
});

function move(step) {
  const rows = [...document.querySelectorAll("table.rows tbody tr")];
  const now = rows.indexOf(document.activeElement?.closest("tr"));
  const row = rows[Math.max(0, Math.min(rows.length - 1, now < 0 ? (step > 0 ? 0 : rows.length - 1) : now + step))];
  if (!row) return;
  row.tabIndex = -1;
  row.dataset.row = "";
  row.focus();
  row.scrollIntoView({ block: "nearest" });
}
