"use strict";
// One cursor over all charts. Without scripts the page is complete, only less talkative.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const xs = data.columns.x;
  const charts = [...document.querySelectorAll(".chart[data-keys] .canvas")];
  if (!xs || xs.length === 0) return;
  const short = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value === "string") return value;
    const size = Math.abs(value);
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
    if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
    return String(+value.toPrecision(3));
  };
  const nearest = (x) => {
    let low = 0;
    let high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle;
      else high = middle;
    }
    return x - xs[low] < xs[high] - x ? low : high;
  };
  const element = (name, parent) => {
    const made = document.createElement("div");
    made.className = name;
    made.hidden = true;
    parent.append(made);
    return made;
  };
  const parts = charts.map((canvas) => ({
    canvas,
    keys: canvas.closest(".chart").dataset.keys.split(" "),
    cursor: element("cursor", canvas),
    tip: element("tip", canvas),
  }));
  const line = (parent, label, value) => {
    const row = document.createElement("div");
    const name = document.createElement("span");
    const number = document.createElement("b");
    name.textContent = `${label} `;
    number.textContent = value;
    row.append(name, number);
    parent.append(row);
  };
  const show = (active, share) => {
    const index = nearest(data.start + share * (data.end - data.start));
    const left = (xs[index] - data.start) / (data.end - data.start);
    for (const part of parts) {
      part.cursor.hidden = false;
      part.cursor.style.left = `${100 * left}%`;
      part.tip.hidden = part !== active;
    }
    active.tip.replaceChildren();
    line(active.tip, data.label, short(xs[index]));
    line(active.tip, "update", short(data.columns.update[index]));
    for (const key of active.keys) {
      if (data.columns[key]) line(active.tip, data.names[key] ?? key, short(data.columns[key][index]));
    }
    active.tip.style.left = left < 0.5 ? `calc(${100 * left}% + 10px)` : "auto";
    active.tip.style.right = left < 0.5 ? "auto" : `calc(${100 * (1 - left)}% + 10px)`;
  };
  const hide = () => parts.forEach((part) => { part.cursor.hidden = part.tip.hidden = true; });
  for (const part of parts) {
    part.canvas.addEventListener("pointermove", (event) => {
      const box = part.canvas.getBoundingClientRect();
      show(part, Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    });
    part.canvas.addEventListener("pointerleave", hide);
  }
})();
