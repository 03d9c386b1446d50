"use strict";
// Without this script the figure is a picture with a table. With it, it is a slider over the windows that moves the film.
(() => {
  const box = document.getElementById("timeline");
  if (!box) return;
  const film = document.getElementById("film");
  const windows = [...box.querySelectorAll(".window")];
  const head = box.querySelector(".head");
  const here = document.getElementById("here");
  const svg = box.querySelector("svg");
  const end = Number(box.dataset.end);
  const first = Number(box.dataset.film);
  const last = Number(box.dataset.filmEnd);

  const show = () => {
    const start = Number(windows[at].dataset.start);
    const there = first <= start && start < last ? "" : "; the copy does not have it";
    const says = `Window ${at + 1} of ${windows.length}, ${windows[at].dataset.says}${there}`;
    windows.forEach((each, i) => each.classList.toggle("here", i === at));
    box.setAttribute("aria-valuenow", at + 1);
    box.setAttribute("aria-valuetext", says);
    here.textContent = says;
  };
  const move = (seconds) => {
    const x = `${Math.min(100, (100 * seconds) / end)}%`;
    head.setAttribute("x1", x);
    head.setAttribute("x2", x);
  };
  const seek = (seconds) => {
    move(seconds);
    if (!film) return;
    if (first <= seconds && seconds < last) film.currentTime = seconds - first;
    else film.pause();
  };
  const go = (to) => {
    at = Math.min(windows.length - 1, Math.max(0, to));
    show();
    seek(Number(windows[at].dataset.start));
  };
  // Of the windows that hold a moment, the one that has begun last; before all of them, the first.
  const holding = (seconds) => Math.max(0, windows.findLastIndex((each) => Number(each.dataset.start) <= seconds + 0.05));
  let at = windows.findIndex((each) => Number(each.dataset.start) >= first);
  if (at < 0) at = holding(first);

  const steps = {
    ArrowLeft: () => go(at - 1),
    ArrowDown: () => go(at - 1),
    ArrowRight: () => go(at + 1),
    ArrowUp: () => go(at + 1),
    Home: () => go(0),
    End: () => go(windows.length - 1),
    Enter: () => film && (film.paused ? film.play() : film.pause()),
  };
  box.addEventListener("keydown", (event) => {
    const step = !event.altKey && !event.ctrlKey && !event.metaKey && steps[event.key];
    if (!step) return;
    event.preventDefault();
    step();
  });
  box.addEventListener("click", (event) => {
    const place = svg.getBoundingClientRect();
    const seconds = (end * Math.min(1, Math.max(0, event.clientX - place.left) / place.width));
    at = holding(seconds);
    show();
    seek(seconds);
  });
  if (film) {
    film.addEventListener("timeupdate", () => {
      if (film.paused) return;
      const seconds = first + film.currentTime;
      move(seconds);
      if (holding(seconds) !== at) {
        at = holding(seconds);
        show();
      }
    });
    for (const track of film.textTracks) track.mode = "showing";
  }
  svg.removeAttribute("role");
  svg.removeAttribute("aria-label");
  svg.setAttribute("aria-hidden", "true");
  head.setAttribute("visibility", "visible");
  const about = {
    role: "slider", tabindex: "0", "aria-label": "Windows of the clip", "aria-valuemin": "1", "aria-valuemax": windows.length,
  };
  for (const [name, value] of Object.entries(about)) box.setAttribute(name, value);
  here.hidden = false;
  for (const each of document.querySelectorAll(".keys")) each.hidden = false;
  show();
  move(first);
})();
