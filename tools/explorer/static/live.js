// Follows the chain on the home page: swaps in fragments that the server rendered. Without this file the page is a still.
"use strict";
const button = document.getElementById("pause");
const link = document.getElementById("link");
let source = null;

function open() {
  link.textContent = "connecting";
  source = new EventSource("/live");
  source.addEventListener("open", () => { link.textContent = "live"; });
  source.addEventListener("error", () => { link.textContent = "no connection to the explorer; trying again"; });
  source.addEventListener("trouble", (event) => { link.textContent = JSON.parse(event.data).cause; });
  source.addEventListener("head", (event) => {
    link.textContent = "live";
    for (const [id, html] of Object.entries(JSON.parse(event.data))) {
      const place = document.getElementById(id);
      if (place && !place.contains(document.activeElement)) place.innerHTML = html;
    }
  });
}

button.hidden = false;
button.addEventListener("click", () => {
  const paused = source !== null;
  if (paused) {
    source.close();
    source = null;
    link.textContent = "paused";
  } else {
    open();
  }
  button.textContent = paused ? "Resume" : "Pause";
});
open();
