// Sends a question and shows the text while the learner writes it, newest first. Without this file the form shows a whole page.
"use strict";

const form = document.querySelector("form.ask");
const replies = document.getElementById("replies");
const signs = { correct: "✓", wrong: "✗", no_answer: "–" };
let running = null;

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
form?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

async function ask() {
  running?.abort();
  running = new AbortController();
  const card = newCard(form.elements.model.selectedOptions[0].textContent, form.elements.question.value);
  try {
    const body = new URLSearchParams(new FormData(form));
    const response = await fetch("ask?format=json", { method: "POST", body, signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const each of events) show(card, JSON.parse(each.replace(/^data: /, "")));
    }
  } catch (error) {
    if (error.name !== "AbortError") show(card, { error: error.message });
    else card.footer.textContent = "stopped";
  }
  card.article.removeAttribute("aria-busy");
}

function newCard(title, question) {
  const article = document.createElement("article");
  const parts = Object.fromEntries(["header", "q", "p", "footer"].map((name) => [name, document.createElement(name)]));
  parts.header.textContent = title;
  parts.q.textContent = question;
  parts.footer.className = "muted";
  parts.footer.textContent = "the model is loaded when it is first asked …";
  article.append(...Object.values(parts));
  article.setAttribute("aria-busy", "true");
  replies.prepend(article);
  return { article, ...parts };
}

function show(card, event) {
  if (event.text) {
    card.p.append(event.text);
    card.footer.textContent = "";
  } else if (event.error) {
    card.p.append(event.error);
    card.p.className = "bad";
    card.footer.textContent = "";
  } else if (event.end) {
    const graded = event.verdict in signs;
    const badge = document.createElement("span");
    badge.className = `badge ${graded ? event.verdict : ""}`;
    const predicted = event.predicted !== null && event.verdict !== "correct" ? event.predicted : null;
    badge.textContent = [graded && `${signs[event.verdict]} ${event.verdict.replace("_", " ")}`, predicted].filter(Boolean).join(" · ");
    card.header.append(badge);
    card.footer.textContent = `${event.tokens} tokens${event.finished ? "" : ", cut off"}`;
  }
}
