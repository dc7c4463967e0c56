// A button that copies each command.
"use strict";
for (const block of document.querySelectorAll(".command:not(.stranger)")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  const code = block.querySelector("code");
  button.setAttribute("aria-label", `Copy: ${block.querySelector("pre").getAttribute("aria-label")}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  });
  block.append(button);
}
