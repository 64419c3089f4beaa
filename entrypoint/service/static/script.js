// Live updates: requests the page again, and changes what has changed.
// Nothing here turns text into HTML. The browser parses the answer into a separate document, without running it.
"use strict";

(() => {
  const TIMEOUT = 10_000;
  const SLOWEST = 15_000;
  const COPIED_FOR = 3_000;

  const connection = document.getElementById("connection");
  const announcement = document.getElementById("announcement");
  const checked = document.getElementById("checked");
  const pause = document.getElementById("pause");

  let etag = null;
  let failures = 0;
  let timer = 0;
  let request = null;
  let paused = false;
  let seen = clock(new Date());

  function clock(date) {
    return `${date.toISOString().slice(11, 19)} UTC`;
  }

  // Make `old` equal to `fresh` with as few changes as possible, to keep the focus, a selection and the scroll position.
  function patch(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    // It may say "Copied". What it copies never changes, because that is its key.
    if (old.className === "copy" && fresh.className === "copy") return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.adoptNode(fresh));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    patchChildren(old, fresh);
  }

  function key(node) {
    return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
  }

  function patchChildren(old, fresh) {
    const keyed = new Map();
    for (const child of old.childNodes) if (key(child)) keyed.set(key(child), child);
    const wanted = new Set();
    for (const child of fresh.childNodes) if (key(child)) wanted.add(key(child));
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      while (place && key(place) && !wanted.has(key(place))) place = remove(place);
      const same = key(child) ? keyed.get(key(child)) : place && !key(place) && place;
      if (!same) {
        old.insertBefore(document.adoptNode(child), place);
      } else {
        if (same === place) place = place.nextSibling;
        else old.insertBefore(same, place);
        patch(same, child);
      }
    }
    while (place) place = remove(place);
  }

  function remove(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  function show(fresh) {
    // A new release of the service has a new script and style.
    const script = (page) => page.querySelector("script[src]")?.getAttribute("src");
    if (script(fresh) !== script(document)) {
      location.reload();
      return;
    }
    const headline = document.getElementById("headline").textContent;
    const focused = document.activeElement;
    document.title = fresh.title;
    for (const id of ["icon", "badge", "status"]) {
      const [old, found] = [document.getElementById(id), fresh.getElementById(id)];
      if (old && found) patch(old, found);
    }
    if (focused && focused !== document.body && !focused.isConnected) document.getElementById("status").focus();
    const now = document.getElementById("headline").textContent;
    // Announce only changes.
    if (now !== headline) announcement.textContent = now;
  }

  function answered() {
    if (request.responseURL && new URL(request.responseURL).pathname !== new URL(address(), location).pathname) {
      location.reload(); // The session has expired: this is the login page.
      return;
    }
    if (request.status === 200 && request.response?.getElementById("status")) {
      etag = request.getResponseHeader("ETag");
      show(request.response);
    } else if (request.status !== 304) {
      failed();
      return;
    }
    failures = 0;
    connection.textContent = "";
    const date = new Date(request.getResponseHeader("Date") ?? Date.now());
    seen = clock(date);
    checked.textContent = `Live, checked at ${seen}`;
    again(Number(document.getElementById("status").dataset.poll) || 2_000);
  }

  function failed() {
    failures += 1;
    checked.textContent = "Not live";
    // Set it once, because screen readers read it out each time.
    if (failures === 1) {
      connection.textContent = `Lost the connection to the service; trying again. This page was last updated at ${seen}.`;
    }
    again(Math.min(SLOWEST, 1_000 * 2 ** Math.min(failures - 1, 5)));
  }

  function again(delay) {
    clearTimeout(timer);
    // Spread the requests of pages that were opened at the same time.
    if (!paused && !document.hidden) timer = setTimeout(ask, delay * (0.9 + 0.2 * Math.random()));
  }

  function address() {
    return document.getElementById("status").dataset.live;
  }

  function ask() {
    clearTimeout(timer);
    request?.abort();
    request = new XMLHttpRequest();
    request.open("GET", address());
    request.responseType = "document";
    request.timeout = TIMEOUT;
    if (etag) request.setRequestHeader("If-None-Match", etag);
    request.onload = answered;
    request.onerror = failed;
    request.ontimeout = failed;
    request.send();
  }

  async function copy(button) {
    const code = button.previousElementSibling;
    let copied = true;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // Over plain HTTP, browsers offer no clipboard: select the command, and copy the selection.
      getSelection().selectAllChildren(code);
      copied = document.execCommand("copy");
    }
    if (!copied) return; // It is selected, so Ctrl+C copies it.
    const label = button.firstChild;
    label.data = "Copied";
    announcement.textContent = `Copied: ${code.textContent}`;
    setTimeout(() => {
      label.data = "Copy";
    }, COPIED_FOR);
  }

  function togglePause() {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) {
      clearTimeout(timer);
      request?.abort();
      checked.textContent = `Paused at ${seen}`;
    } else {
      ask();
    }
  }

  pause.addEventListener("click", togglePause);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copy(button);
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !paused) ask();
  });
  // After going back to this page, the browser shows an old copy.
  addEventListener("pageshow", (event) => {
    if (event.persisted && !paused) ask();
  });

  document.getElementById("live").hidden = false;
  document.documentElement.classList.add("scripted");
  checked.textContent = `Live, checked at ${seen}`;
  again(Number(document.getElementById("status").dataset.poll) || 2_000);
})();
