// Replaces the parts of a page that the server says have changed, and counts the seconds of what runs.
"use strict";

const place = document.querySelector("[data-events]");
if (place) {
  const source = new EventSource(place.dataset.events);
  const gone = document.getElementById("gone");
  const tell = (text) => {
    gone.textContent = text;
    gone.hidden = !text;
  };
  source.onopen = () => tell("");
  source.onerror = () => tell("The server does not answer: this page is as it was. Start mentorkd view again, and load the page again.");
  source.addEventListener("gone", (event) => {
    source.close();
    tell(JSON.parse(event.data));
  });
  source.onmessage = (event) => {
    for (const [id, html] of Object.entries(JSON.parse(event.data))) replace(document.getElementById(id), html);
    count();
  };
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

function replace(part, html) {
  const focused = part.contains(document.activeElement) && document.activeElement.getAttribute("href");
  const log = part.querySelector(".log");
  const scrolled = log ? log.scrollTop : 0;
  part.innerHTML = html;
  if (log) part.querySelector(".log").scrollTop = scrolled;
  if (focused) part.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
}

function count() {
  for (const clock of document.querySelectorAll("[data-since]")) {
    const seconds = Math.max(0, Math.round(Date.now() / 1000 - clock.dataset.since));
    const minutes = Math.floor(seconds / 60);
    clock.textContent = minutes >= 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
  }
}
count();
setInterval(count, 1000);
