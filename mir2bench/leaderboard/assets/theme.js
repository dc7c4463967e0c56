// Light, dark, or what the system says. Runs before the page is drawn, so that it never flashes.
"use strict";
(() => {
  const modes = ["system", "light", "dark"];
  const read = () => {
    try {
      const mode = localStorage.getItem("theme");
      return modes.includes(mode) ? mode : "system";
    } catch {
      return "system"; // storage is blocked
    }
  };
  const apply = (mode) => {
    if (mode === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = mode;
  };
  let mode = read();
  apply(mode);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("button.theme");
    const label = button.querySelector("span");
    label.textContent = mode;
    button.hidden = false;
    button.addEventListener("click", () => {
      mode = modes[(modes.indexOf(mode) + 1) % modes.length];
      label.textContent = mode;
      apply(mode);
      try {
        localStorage.setItem("theme", mode);
      } catch {
        // it holds for this page then
      }
    });
  });
})();
