// Two things, and pages work without either: ages of instants are counted up, and the page of a
// deployment fetches its own HTML again whenever the event stream says that something happened.
"use strict";

const LEAST_GAP_MS = 250;
const LONGEST_WAIT_MS = 15000;

const live = document.getElementById("live");
const start = live?.dataset.now ?? document.body.dataset.now;
// The server's clock, as seen from here.
let ahead = start ? Date.parse(start) - Date.now() : 0;

// Ages. The rule for units is that of `moment.rs`.

function span(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([count], place) => place === 0 || count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

function count() {
  const now = Date.now() + ahead;
  for (const time of document.querySelectorAll("time[data-since]")) {
    const passed = now - Date.parse(time.dateTime);
    let text = span(passed);
    if (time.dataset.since === "ago") text += " ago";
    if (time.dataset.since === "until") text = passed < 0 ? `in ${span(-passed)}` : "now";
    if (time.textContent !== text) time.textContent = text;
  }
}

setInterval(count, 1000);
count();

// The live page.

if (live?.dataset.eventsUrl && "EventSource" in window) {
  const seen = new Map(); // Section id → its HTML as the server last gave it, ages left out.
  let fetching = false;
  let wanted = false; // Something happened since the last fetch began.
  let behind = false; // A section was left as it was, since somebody types in it.
  let timer = 0;
  let lastFetch = 0;
  let wait = 1000;
  let stream = null;

  const sections = (root) => [...root.querySelectorAll("[data-section]")];
  const html = (section) => section.outerHTML.replace(/(<time[^>]*>)[^<]*/g, "$1");

  const show = (state, text) => {
    const sign = document.getElementById("live-state");
    sign.hidden = false;
    sign.className = `live-state ${state}`;
    if (sign.textContent !== text) sign.textContent = text;
  };

  // Fetching: coalesced, one at a time, and never for a page that nobody sees.

  const refresh = () => {
    wanted = true;
    if (fetching || timer || document.hidden) return;
    timer = setTimeout(load, Math.max(0, lastFetch + LEAST_GAP_MS - Date.now()));
  };

  const load = async () => {
    timer = 0;
    wanted = false;
    fetching = true;
    lastFetch = Date.now();
    try {
      const response = await fetch(live.dataset.liveUrl, {
        headers: { Accept: "text/html" },
        cache: "no-store",
      });
      if (response.status === 401 || response.redirected) return leave("Signed out: reload the page");
      if (!response.ok) throw new Error(`status ${response.status}`);
      apply(await response.text());
    } catch {
      show("reconnecting", "Reconnecting");
      setTimeout(refresh, 2000);
    } finally {
      fetching = false;
      if (wanted) refresh();
    }
  };

  const leave = (text) => {
    stream?.close();
    stream = null;
    wanted = false;
    show("ended", text);
  };

  // Replacing what changed.

  const apply = (text) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    const fresh = page.getElementById("live");
    if (!fresh) throw new Error("no live part");
    ahead = Date.parse(fresh.dataset.now) - Date.now();
    behind = false;
    let before = null;
    const ids = new Set();
    for (const section of sections(fresh)) {
      ids.add(section.id);
      const old = document.getElementById(section.id);
      if (!old) {
        const added = document.importNode(section, true);
        before ? before.after(added) : live.prepend(added);
        before = added;
        seen.set(section.id, html(section));
        continue;
      }
      before = old;
      if (seen.get(section.id) === html(section)) continue;
      if (isInUse(old)) {
        behind = true; // Taken up again when the field is left; see `focusout`.
        continue;
      }
      seen.set(section.id, html(section));
      replace(old, section);
    }
    for (const old of sections(live)) {
      if (!ids.has(old.id) && !isInUse(old)) old.remove();
    }
    const title = document.getElementById("head")?.dataset.title;
    if (title) document.title = `${title} · Capstan`;
    count();
    if ("over" in fresh.dataset) leave("Ended");
    else if (stream?.readyState === EventSource.OPEN) show("live", "Live");
  };

  // A section that holds what a person is typing is left alone.
  const isInUse = (section) =>
    [...section.querySelectorAll("input:not([type=hidden]), select, textarea")].some(
      (field) =>
        field === document.activeElement ||
        (field.options
          ? [...field.options].some((option) => option.selected !== option.defaultSelected)
          : field.value !== field.defaultValue || field.checked !== field.defaultChecked),
    );

  // The element stays, so that a live region goes on to be one; its content is exchanged.
  const replace = (old, section) => {
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const scrolled = [...old.querySelectorAll("ol, pre")].map((box) => box.scrollTop);
    const touched = new Map();
    for (const details of old.querySelectorAll("details[id][data-touched]")) {
      touched.set(details.id, details.open);
    }
    for (const { name } of [...old.attributes]) {
      if (!section.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of section.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    old.replaceChildren(...document.importNode(section, true).childNodes);
    for (const [id, open] of touched) {
      const details = document.getElementById(id);
      if (!details) continue;
      details.open = open;
      details.dataset.touched = "";
    }
    old.querySelectorAll("ol, pre").forEach((box, index) => {
      if (scrolled[index]) box.scrollTop = scrolled[index];
    });
    if (!focused) return;
    // The same thing, or none: another button in its place must not get the next press of Enter.
    const again = [...old.querySelectorAll("a, button, summary")].find(
      (one) => nameOf(one) === nameOf(focused) && !one.disabled,
    );
    if (!again) old.tabIndex = -1;
    (again ?? old).focus({ preventScroll: true });
  };

  const nameOf = (one) =>
    one.id || one.getAttribute("href") || `${one.tagName} ${one.parentElement?.id}`;

  // The stream.

  const connect = () => {
    stream = new EventSource(live.dataset.eventsUrl);
    stream.onopen = () => {
      wait = 1000;
      show("live", "Live");
      refresh();
    };
    stream.onerror = () => {
      show("reconnecting", "Reconnecting");
      if (stream.readyState !== EventSource.CLOSED) return; // The browser tries again by itself.
      stream = null;
      setTimeout(connect, wait);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
      refresh();
    };
    stream.onmessage = refresh;
    for (const type of live.dataset.eventTypes.split(" ")) stream.addEventListener(type, refresh);
  };

  live.addEventListener("click", (event) => {
    const details = event.target.closest("summary")?.parentElement;
    if (details) details.dataset.touched = "";
  });
  live.addEventListener("focusout", () => {
    if (behind) refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) refresh();
  });
  for (const section of sections(live)) seen.set(section.id, html(section));
  if ("over" in live.dataset) show("ended", "Ended");
  else connect();
}
