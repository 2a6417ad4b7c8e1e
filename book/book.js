// book.js: the theme button, search, and scrolling by keyboard. The book reads well without it.
"use strict";

(function () {
  const root = document.documentElement;

  // Storage may be forbidden for pages opened from files; then the choice lasts one page.
  function stored(value) {
    try {
      if (value) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch (e) {
      return null;
    }
  }

  // Before the first paint, so that no page flashes in the other colours.
  const chosen = stored();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  function isDark() {
    if (root.dataset.theme) return root.dataset.theme === "dark";
    return matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function themeButton() {
    const button = document.querySelector(".theme");
    function label() {
      const other = isDark() ? "light" : "dark";
      button.textContent = other === "dark" ? "Dark" : "Light";
      button.title = "Switch to " + other + " colours";
    }
    button.addEventListener("click", function () {
      root.dataset.theme = isDark() ? "light" : "dark";
      stored(root.dataset.theme);
      label();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    label();
    button.hidden = false;
  }

  // What scrolls sideways must be reachable by keyboard, and only that.
  function scrollers() {
    document.querySelectorAll("div.sourceCode, pre, .table, .display, .listing.output").forEach(function (box) {
      if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === "auto") box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  }

  function sidebar() {
    const details = document.querySelector(".sidebar details");
    if (!details) return;
    if (matchMedia("(max-width: 68rem)").matches) details.open = false;
    const page = location.pathname.split("/").pop() || "index.html";
    details.querySelectorAll("a").forEach(function (link) {
      if (link.getAttribute("href") === page) link.setAttribute("aria-current", "page");
    });
  }

  // ---- search: every word of the query must occur in a section; titles count most ----

  function score(entry, words) {
    const title = entry[2].toLowerCase(), text = entry[3].toLowerCase();
    let sum = 0;
    for (const word of words) {
      const hits = Math.min(text.split(word).length - 1, 10) + (title.includes(word) ? 25 : 0);
      if (!hits) return 0;
      sum += hits;
    }
    return sum;
  }

  function snippet(text, words) {
    const p = document.createElement("p");
    const hit = text.toLowerCase().indexOf(words[0]);
    const at = hit < 60 ? 0 : text.indexOf(" ", hit - 60) + 1;
    const part = text.slice(at, at + 180);
    const lower = part.toLowerCase();
    let done = 0;
    while (done < part.length) {
      let next = -1, length = 0;
      for (const word of words) {
        const i = lower.indexOf(word, done);
        if (i >= 0 && (next < 0 || i < next)) { next = i; length = word.length; }
      }
      if (next < 0) break;
      p.append(part.slice(done, next));
      const mark = document.createElement("mark");
      mark.textContent = part.slice(next, next + length);
      p.append(mark);
      done = next + length;
    }
    p.append(part.slice(done));
    return p;
  }

  function show(query) {
    const box = document.querySelector(".results");
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    box.hidden = words.length === 0;
    if (box.hidden || !window.searchIndex) return;
    const found = window.searchIndex
      .map(function (entry) { return { entry: entry, score: score(entry, words) }; })
      .filter(function (hit) { return hit.score > 0; })
      .sort(function (a, b) { return b.score - a.score; });
    box.querySelector(".count").textContent =
      found.length === 0 ? "Nothing found." :
      found.length + (found.length === 1 ? " section" : " sections") + (found.length > 20 ? ", the best 20:" : "");
    const list = box.querySelector("ol");
    list.textContent = "";
    for (const hit of found.slice(0, 20)) {
      const item = document.createElement("li"), link = document.createElement("a");
      link.href = document.body.dataset.root + hit.entry[0];
      link.textContent = hit.entry[2];
      item.append(link);
      if (hit.entry[1]) {
        const from = document.createElement("span");
        from.className = "from";
        from.textContent = " – " + hit.entry[1];
        item.append(from);
      }
      item.append(snippet(hit.entry[3], words));
      list.append(item);
    }
  }

  function search() {
    const form = document.querySelector(".search"), input = form.querySelector("input");
    let asked = false;
    // The index is as large as the book: it comes when somebody wants to search.
    function load() {
      if (asked) return;
      asked = true;
      const script = document.createElement("script");
      script.src = document.body.dataset.root + "search-index.js";
      script.onload = function () { show(input.value); };
      document.head.append(script);
    }
    input.addEventListener("focus", load);
    input.addEventListener("input", function () { load(); show(input.value); });
    form.addEventListener("submit", function (event) {
      event.preventDefault();
      const first = document.querySelector(".results li a");
      if (first) first.focus();
    });
    document.addEventListener("keydown", function (event) {
      if (event.key === "Escape" && input.value) {
        input.value = "";
        show("");
      } else if (event.key === "/" && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) {
        event.preventDefault();
        input.focus();
      }
    });
    form.hidden = false;
  }

  document.addEventListener("DOMContentLoaded", function () {
    themeButton();
    search();
    sidebar();
    scrollers();
    window.addEventListener("resize", scrollers);
  });
})();
