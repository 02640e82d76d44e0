"use strict";
// Marks of hits in the pictures, and their rows in the table, know of each other.
(() => {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  tip.hidden = true;

  function describe(row) {
    const table = document.createElement("table");
    const names = row.closest("table").tHead.rows[0].cells;
    [...row.cells].forEach((cell, k) => {
      const line = table.insertRow();
      line.insertCell().textContent = names[k].textContent;
      line.insertCell().textContent = cell.textContent;
    });
    tip.replaceChildren(table);
  }

  function place(event) {
    const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
    const low = event.clientY + 14 + tip.offsetHeight > innerHeight;
    tip.style.left = Math.max(0, right ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14) + "px";
    tip.style.top = Math.max(0, low ? event.clientY - 14 - tip.offsetHeight : event.clientY + 14) + "px";
  }

  const marks = new Map();
  for (const mark of document.querySelectorAll("svg .hit")) {
    const row = document.getElementById(mark.closest("section").id + "-" + mark.dataset.hit);
    if (!row) continue;
    marks.set(row, [...(marks.get(row) || []), mark]);
    mark.querySelector("title").remove();
    mark.addEventListener("pointerenter", (event) => { light(row, true); describe(row); tip.hidden = false; place(event); });
    mark.addEventListener("pointermove", place);
    mark.addEventListener("pointerleave", () => { light(row, false); tip.hidden = true; });
    mark.addEventListener("click", () => { tip.hidden = true; row.scrollIntoView({ block: "center" }); });
  }

  function light(row, on) {
    row.classList.toggle("lit", on);
    for (const mark of marks.get(row) || []) mark.classList.toggle("lit", on);
  }

  for (const row of marks.keys()) {
    row.addEventListener("pointerenter", () => light(row, true));
    row.addEventListener("pointerleave", () => light(row, false));
  }

  // A click on a column's name sorts by it, a second one the other way round.
  function value(cell) {
    const number = parseFloat(cell.textContent.replace(/\u2212/g, "-").replace(/,/g, ""));
    return cell.classList.contains("n") && !Number.isNaN(number) ? number : cell.textContent;
  }
  for (const name of document.querySelectorAll(".hits th")) {
    name.addEventListener("click", () => {
      const body = name.closest("table").tBodies[0];
      const down = name.dataset.down !== "yes" && name.classList.contains("n");
      name.dataset.down = down ? "yes" : "no";
      const sorted = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a.cells[name.cellIndex]), value(b.cells[name.cellIndex])];
        return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
      });
      body.replaceChildren(...sorted);
    });
  }
  document.documentElement.dataset.ready = marks.size;
})();
