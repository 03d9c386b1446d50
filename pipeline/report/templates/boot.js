"use strict";
// Each figure is there already, as a picture. Where a script may run, it is drawn again from the same specification, in
// the width that there is, with tooltips and legends that choose. Expressions are interpreted: the policy forbids eval.
(async () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  for (const box of document.querySelectorAll(".chart")) {
    if (!box.offsetWidth) continue; // in a closed box, where no width can be measured
    const spec = JSON.parse(document.getElementById(box.dataset.spec).textContent);
    const still = box.querySelector("svg");
    const live = document.createElement("div");
    if (typeof spec.width === "number") spec.width = "container";
    box.append(live);
    still.style.display = "none";
    try {
      await vegaEmbed(live, spec, { ast: true, renderer: "svg", actions: false, logLevel: 1, tooltip: { theme: dark ? "dark" : "light" } });
      const svg = live.querySelector("svg");
      for (const part of svg.querySelectorAll("[role]")) part.removeAttribute("role"); // the whole has one title
      for (const part of svg.querySelectorAll("[aria-roledescription]")) part.removeAttribute("aria-roledescription");
      for (const name of ["role", "aria-labelledby"]) svg.setAttribute(name, still.getAttribute(name));
      svg.prepend(...still.querySelectorAll(":scope > title, :scope > desc"));
      still.remove();
    } catch (error) {
      console.error(error);
      live.remove();
      still.style.display = "";
    }
  }
})();
