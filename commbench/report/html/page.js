"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // ---- light and dark: what the system says, until somebody presses the button
  const root = document.documentElement, button = byId("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.setAttribute("aria-pressed", String(dark())); };
  button.hidden = false;
  label();
  system.addEventListener("change", label);
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });

  // ---- sorting: numbers and sizes as such, what is unknown last
  const units = { B: 1, KiB: 1024, MiB: 1048576, GiB: 1073741824, TiB: 1099511627776 };
  const value = (text) => {
    const found = /^[±\s]*(-?[\d.,]+(?:e[-+]?\d+)?)\s*([KMGT]?i?B|%|us)?$/.exec(text);
    return found ? Number(found[1].replace(/,/g, "")) * (units[found[2]] || 1) : NaN;
  };
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, "en", { numeric: true });
  };
  const unknown = (text) => text === "-" || text === "?" || text === "";
  const sort = (table, head) => {
    const up = head.getAttribute("aria-sort") !== "ascending", k = head.cellIndex, body = table.tBodies[0];
    const cells = new Map([...body.rows].map((row) => [row, row.cells[k].textContent.trim()]));
    const order = [...body.rows].sort((one, other) => {
      const [a, b] = [cells.get(one), cells.get(other)];
      if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
      return up ? compare(a, b) : compare(b, a);
    });
    body.append(...order);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  };
  for (const table of all("table.sortable")) {
    for (const [k, row] of [...table.tBodies[0].rows].entries()) row.dataset.row = k;
    for (const head of all("thead th:not([data-fixed])", table)) {
      const press = document.createElement("button");
      press.type = "button";
      press.append(...head.childNodes);
      head.append(press);
      press.addEventListener("click", () => sort(table, head));
    }
  }

  // ---- filtering: rows that have all the words
  const filter = byId("filter");
  if (filter) {
    const rows = [...byId("row-table").tBodies[0].rows].map((row) =>
      [row, [...row.cells].map((cell) => cell.textContent.trim().toLowerCase()).join(" ")]);
    filter.closest("p").hidden = false;
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const [row, text] of rows) {
        row.hidden = !words.every((word) => text.includes(word));
        count += !row.hidden;
      }
      byId("shown").textContent = words.length ? `${count} of ${rows.length} rows` : "";
    });
  }

  // ---- values under the pointer: those of the table below the plot
  const tip = byId("tip");
  const show = (event, lines) => {
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - width - 4))}px`;
    tip.style.top = `${event.clientY + 18 + height > window.innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
  };
  const told = (table, row) =>
    [...row.cells].map((cell, k) => `${table.tHead.rows[0].cells[k].textContent.trim()}: ${cell.textContent.trim()}`);
  const marks = (svg, table) => all("g[data-line]", svg).flatMap((group) => {
    const [line, ...points] = group.dataset.line.split("-").slice(1).map(Number);
    const body = table.tBodies[line];
    return all("use", group).map((use, k) => ({
      use, x: Number(use.getAttribute("x")), y: Number(use.getAttribute("y")), row: body.rows[1 + (points.length ? points[k] : k)],
      name: body.rows[0].textContent.trim(),
    }));
  });
  for (const svg of all("svg[role=img]")) {
    // A <title> would pop up over the values: its text becomes the label, which says the same to a screen reader.
    const title = svg.querySelector("title");
    svg.setAttribute("aria-label", title.textContent);
    svg.removeAttribute("aria-labelledby");
    title.remove();
    const table = svg.dataset.values && byId(svg.dataset.values);
    if (!table) continue;
    let hot = null, found = null;
    const leave = () => { if (hot) hot.classList.remove("hot"); hot = null; tip.hidden = true; };
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("pointermove", (event) => {
      leave();
      if (event.target.dataset && event.target.dataset.k) {
        const row = table.querySelector(`tr[data-row="${event.target.dataset.k}"]`);
        hot = event.target;
        if (row) show(event, told(table, row));
      } else if (!svg.classList.contains("heat")) {
        found = found || marks(svg, table);
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        const far = (mark) => Math.hypot(mark.x - at.x, mark.y - at.y);
        const near = found.reduce((best, mark) => (!best || far(mark) < far(best) ? mark : best), null);
        if (!near || far(near) > 24) return;
        hot = near.use;
        show(event, [near.name, ...told(table, near.row)]);
      }
      if (hot) hot.classList.add("hot");
    });
  }

  // ---- paper shows what a click would
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = all("details.print:not([open])");
    for (const one of opened) one.open = true;
  });
  window.addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
})();
