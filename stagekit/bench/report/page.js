"use strict";
(() => {
  const root = document.documentElement;
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function paint() {
    const series = colour("--series").split(/\s+/);
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true };
    for (const place of document.querySelectorAll("[data-plot]")) {
      const { data, layout } = plots[place.dataset.plot];
      const traces = data.map(({ color, ...trace }) => {
        const own = series[color % series.length];
        const made = { ...trace, marker: { ...trace.marker, color: own } };
        if (trace.type === "scatter") made.line = { ...trace.line, color: own };
        return made;
      });
      Plotly.react(place, traces, {
        height: 340, margin: { l: 60, r: 20, t: 10, b: 50 },
        paper_bgcolor: "transparent", plot_bgcolor: "transparent",
        font: { family: "system-ui, sans-serif", size: 13, color: colour("--ink") },
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
        ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
      }, { displaylogo: false, displayModeBar: false, responsive: true });
    }
  }

  function sort(table, column, heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows];
    const numbers = rows.every((row) => value(row) !== "" && !Number.isNaN(Number(value(row))));
    const compare = (a, b) => numbers ? Number(value(a)) - Number(value(b)) : value(a).localeCompare(value(b));
    rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      if (table.tBodies[0].rows[0]?.cells[column].classList.contains("number")) heading.classList.add("right");
      heading.firstElementChild.addEventListener("click", () => sort(table, column, heading));
    });
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    paint();
  });
  dark.addEventListener("change", paint);
  let before;
  addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; paint(); });
  addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; paint(); });
  paint();
  root.dataset.ready = "yes";
})();
