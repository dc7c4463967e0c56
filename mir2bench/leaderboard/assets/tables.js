// Sorting, searching and hiding in the boards' tables, by DataTables. Without this script the tables are whole.
"use strict";
(() => {
  const narrow = matchMedia("(max-width: 60rem)").matches;

  // Numbers first, in either direction; what has no number comes last.
  const order = (sign) => (a, b) => {
    const x = a === "" ? NaN : Number(a);
    const y = b === "" ? NaN : Number(b);
    if (Number.isNaN(x)) return Number.isNaN(y) ? 0 : 1;
    return Number.isNaN(y) ? -1 : sign * (x - y);
  };
  DataTable.ext.type.order["score-asc"] = order(1);
  DataTable.ext.type.order["score-desc"] = order(-1);

  for (const controls of document.querySelectorAll(".controls")) {
    const element = document.getElementById(controls.dataset.for);
    const shown = element.tBodies[0].rows.length; // at once
    const more = document.getElementById(`more-${element.id.slice("table-".length)}`);
    if (more) element.tBodies[0].append(...more.content.querySelectorAll("tr"));
    const rows = element.tBodies[0].rows.length;
    const table = new DataTable(element, {
      autoWidth: false,
      order: [],
      paging: rows > shown,
      pageLength: shown,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: rows > shown ? "paging" : null },
      columnDefs: [
        { targets: "number", type: "score", orderSequence: ["desc", "asc", ""] },
        { targets: "c-group", type: "string", orderSequence: ["asc", "desc", ""] },
        { targets: ["text", "method"], type: "string", orderSequence: ["asc", "desc", ""] },
      ],
      language: { emptyTable: "No rows.", zeroRecords: "No row fits. Clear the search or show more rows." },
    });

    const count = controls.querySelector(".count");
    const tell = () => {
      const fit = table.rows({ search: "applied" }).count();
      count.textContent = fit === rows ? `${rows} rows` : `${fit} of ${rows} rows`;
      const turn = table.table().container().querySelector(".dt-paging nav");
      if (turn) turn.setAttribute("aria-label", `Pages of the table: ${element.dataset.title}`);
    };
    table.on("draw", tell);
    tell();

    controls.querySelector("input[type=search]").addEventListener("input", (event) => {
      table.search(event.target.value).draw();
    });
    const hidden = new Set();
    const select = controls.querySelector("select");
    const fits = (_text, _data, index) => {
      const { dataset } = table.row(index).node();
      if (select && select.value && dataset.setting !== select.value) return false;
      return [...hidden].every((name) => dataset[name] === undefined);
    };
    const filter = () => table.search.fixed("rows", fits).draw();
    if (select) select.addEventListener("change", filter);
    for (const box of controls.querySelectorAll("[data-hide]")) {
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(box.dataset.hide);
        else hidden.add(box.dataset.hide);
        filter();
      });
    }
    for (const box of controls.querySelectorAll("[data-part]")) {
      const show = () => table.columns(`.${box.dataset.part}`).visible(box.checked);
      if (narrow || (box.dataset.part === "details" && matchMedia("(max-width: 90rem)").matches)) box.checked = false;
      if (!box.checked) show();
      box.addEventListener("change", show);
    }
    controls.hidden = false;
  }
})();
