"use strict";
// The unit browser. All rows come as JSON; the document holds one page of them.
const PAGE = 25;
const order = new Intl.Collator("en", { numeric: true });

function browse(root) {
  const { kinds, texts, tones, rows, grids } = JSON.parse(
    root.querySelector("script").textContent,
  );
  const named = (column) => kinds[column] === "text" || kinds[column] === "model";
  const units = rows.map((row, place) => ({
    cells: row.map((cell, column) => (named(column) ? texts[cell] : cell)),
    grid: grids[place],
  }));
  const headers = [...root.querySelectorAll("thead th")];
  const filters = [...root.querySelectorAll("[data-columns]")];
  const body = root.querySelector("tbody");
  const [previous, next] = root.querySelectorAll(".pager button");
  let sorted = units;
  let shown = units;
  let page = 0;

  const columnsOf = (filter) => filter.dataset.columns.split(" ").map(Number);
  const passes = (unit, filter) => {
    const cells = columnsOf(filter).map((column) => unit.cells[column]);
    if (filter.value === "") return true;
    if (filter.tagName === "SELECT") return cells.includes(filter.value);
    if (filter.type === "number") return cells.some((cell) => cell >= Number(filter.value));
    const part = filter.value.toLowerCase();
    return cells.some((cell) => cell.toLowerCase().includes(part));
  };

  // Missing values come last, whichever way the others are sorted.
  function sort(column, direction) {
    headers.forEach((header, place) =>
      header.setAttribute("aria-sort", place === column ? direction : "none"),
    );
    const sign = direction === "ascending" ? 1 : -1;
    sorted = [...units].sort((one, other) => {
      const [a, b] = [one.cells[column], other.cells[column]];
      const missing = (a === null || a === "") - (b === null || b === "");
      return missing || sign * (named(column) ? order.compare(a, b) : a - b);
    });
    find();
  }

  function find() {
    shown = sorted.filter((unit) => filters.every((filter) => passes(unit, filter)));
    show(0);
  }

  function show(wanted) {
    const last = Math.max(Math.ceil(shown.length / PAGE) - 1, 0);
    page = Math.min(Math.max(wanted, 0), last);
    const start = page * PAGE;
    const visible = shown.slice(start, start + PAGE);
    body.replaceChildren(...visible.map(line));
    if (body.firstChild) body.firstChild.tabIndex = 0;
    previous.disabled = page === 0;
    next.disabled = page === last;
    const range = visible.length ? `, ${start + 1} to ${start + visible.length} shown` : "";
    root.querySelector("[role=status]").textContent =
      `${shown.length} of ${units.length} units${range}`;
  }

  function line(unit) {
    const row = document.createElement("tr");
    row.setAttribute("role", "row");
    row.tabIndex = -1;
    if (unit.grid) row.className = "pictured";
    unit.cells.forEach((value, column) => {
      const cell = row.insertCell();
      cell.setAttribute("role", "cell");
      if (!named(column)) cell.className = "number";
      cell.dataset.label = headers[column].textContent;
      let place = cell;
      if (kinds[column] === "model") {
        place = cell.appendChild(document.createElement("span"));
        place.className = `model ${tones[value]}`;
      } else if (kinds[column] === "unit" && unit.grid) {
        place = cell.appendChild(document.createElement("a"));
        place.href = `#${unit.grid}`;
        place.tabIndex = -1;
        place.setAttribute("aria-label", `${value}, with pictures`);
      }
      const empty = value === null || value === "";
      place.textContent = empty ? "–" : kinds[column] === "number" ? value.toFixed(4) : value;
    });
    return row;
  }

  function focus(row) {
    if (!row) return false;
    for (const other of body.children) other.tabIndex = -1;
    row.tabIndex = 0;
    row.focus();
    return true;
  }

  const open = (row) => row?.querySelector("a")?.click();

  headers.forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => {
      const first = named(column) || kinds[column] === "unit" ? "ascending" : "descending";
      const second = first === "ascending" ? "descending" : "ascending";
      sort(column, header.getAttribute("aria-sort") === first ? second : first);
    }),
  );
  for (const filter of filters) {
    if (filter.tagName === "SELECT") {
      const values = new Set(units.map((unit) => unit.cells[columnsOf(filter)[0]]));
      for (const value of values) if (value) filter.add(new Option(value, value));
    }
    filter.addEventListener("input", find);
  }
  root.querySelector(".reset").addEventListener("click", () => {
    for (const filter of filters) filter.value = "";
    find();
  });
  previous.addEventListener("click", () => show(page - 1));
  next.addEventListener("click", () => show(page + 1));
  body.addEventListener("click", (event) => {
    if (!event.target.closest("a")) open(event.target.closest("tr"));
  });
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const turn = (button, to, end) => {
      if (button.disabled) return;
      show(to);
      focus(body[end]);
    };
    const moves = {
      ArrowDown: () => focus(row.nextSibling) || turn(next, page + 1, "firstChild"),
      ArrowUp: () => focus(row.previousSibling) || turn(previous, page - 1, "lastChild"),
      Home: () => focus(body.firstChild),
      End: () => focus(body.lastChild),
      Enter: () => open(row),
    };
    if (!row || !moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });

  find();
  root.hidden = false;
}

document.querySelectorAll(".units").forEach(browse);
