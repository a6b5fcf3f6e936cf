// Follows the chain on the home page: swaps in fragments that the server rendered. Without this file the page is a still.
"use strict";
const button = document.getElementById("pause");
let paused = false;
let source = null;
button.hidden = false;
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Resume" : "Pause";
  if (paused) source.close(); else open();
});
function open() {
  source = new EventSource("/live");
  source.addEventListener("head", (event) => {
    for (const [id, html] of Object.entries(JSON.parse(event.data))) {
      const place = document.getElementById(id);
      if (place && !place.contains(document.activeElement)) place.innerHTML = html;
    }
    const strip = document.querySelector(".strip");
    if (strip) strip.scrollLeft = strip.scrollWidth;
  });
}
open();
