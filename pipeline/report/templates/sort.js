"use strict";
// Every table of some rows gets buttons for heads. One click sorts upwards, one more downwards, a third gives the page's
// own order back; what has no value stands last.
for (const table of document.querySelectorAll("main table")) {
  const [top, under] = table.tHead?.rows ?? [];
  const rows = [...table.tBodies[0].rows];
  if (!top || rows.length < 3) continue;
  const below = [...(under?.cells ?? [])];
  const heads = [...top.cells].flatMap((cell) => (cell.colSpan > 1 ? below.splice(0, cell.colSpan) : cell));
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const value = (row) => {
      const text = row.cells[column].textContent.trim().replace("\u2212", "-");
      return head.classList.contains("n") ? parseFloat(text) : text;
    };
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" }[head.getAttribute("aria-sort")] ?? "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      const [known, none] = [[], []];
      for (const row of rows) (Number.isNaN(value(row)) ? none : known).push(row);
      const sign = next === "descending" ? -1 : 1;
      const less = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
      if (next) known.sort((a, b) => sign * less(value(a), value(b)));
      table.tBodies[0].append(...(next ? [...known, ...none] : rows));
    });
  });
}
