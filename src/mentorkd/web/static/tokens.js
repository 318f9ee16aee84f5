// Arrow keys move from token to token; up and down by ten.
"use strict";

document.querySelector(".tokens").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10 }[event.key];
  if (!step) return;
  const tokens = [...event.currentTarget.querySelectorAll(".token")];
  const next = tokens[Math.max(0, Math.min(tokens.length - 1, tokens.indexOf(event.target) + step))];
  event.preventDefault();
  event.stopPropagation();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
