"use strict";
// Replaces the main region of the page a few seconds after each change, until it is told to pause.
(() => {
  const main = () => document.getElementById("main");
  const button = document.getElementById("updates");
  const state = document.getElementById("updates-state");
  if (!button || !state || !("EventSource" in window)) return;

  let source = null;
  let isBusy = false;

  async function refresh() {
    // What somebody types or reads with a keyboard is not taken away.
    if (isBusy || document.hidden || main().contains(document.activeElement)) return;
    if (String(document.getSelection())) return;
    isBusy = true;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
      if (answer.status === 403) return location.reload();
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("main");
      if (fresh) main().replaceChildren(...fresh.childNodes);
    } catch {
      state.textContent = "The gateway does not answer.";
    } finally {
      isBusy = false;
    }
  }

  function start() {
    source = new EventSource("/console/events");
    source.addEventListener("tick", () => {
      state.textContent = "This page updates itself.";
      refresh();
    });
    source.addEventListener("error", () => {
      // The gateway has no place for another stream, or the session has ended.
      if (source && source.readyState === EventSource.CLOSED) {
        stop("Updates are not available at present. Reload the page.");
      }
    });
    button.textContent = "Pause updates";
  }

  function stop(why) {
    if (source) source.close();
    source = null;
    button.textContent = "Update automatically";
    state.textContent = why;
  }

  button.addEventListener("click", () => (source ? stop("Updates are paused.") : start()));
  button.parentElement.hidden = false;
  start();
})();
