// Switches between pictures that are all in the page. Without it, all of them show.
"use strict";
for (const group of document.querySelectorAll("[data-switch]")) {
  const panels = [...group.querySelectorAll("[data-panel]")];
  const select = group.querySelector("select");
  const buttons = [...group.querySelectorAll("button[data-show]")];
  const show = (name) => {
    for (const panel of panels) panel.hidden = panel.dataset.panel !== name;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.show === name));
  };
  for (const button of buttons) button.addEventListener("click", () => show(button.dataset.show));
  if (select) select.addEventListener("change", () => show(select.value));
  for (const control of group.querySelectorAll(".control")) control.hidden = false;
  if (panels.length) show(panels[0].dataset.panel);
}
// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((item) => { item.open = true; }));
