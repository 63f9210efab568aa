"use strict";
(() => {
  const every = (what, inside = document) => Array.from(inside.querySelectorAll(what));
  const make = (tag, set = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(set)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  // Tables: a button in each heading. What has no value stays last in both directions.
  const texts = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const sortBy = (table, column, heading) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    const rows = every("tr", table.tBodies[0]).map((row) => {
      const cell = row.cells[column];
      const number = cell.dataset.v === undefined ? NaN : Number(cell.dataset.v);
      return { row, number, none: cell.hasAttribute("data-none"), text: cell.textContent.trim() };
    });
    const order = (a, b) => {
      if (a.none || b.none) return a.none - b.none;
      const numbers = [a.number, b.number].map((n) => Number.isNaN(n));
      let found = 0;
      if (numbers[0] !== numbers[1]) return numbers[0] - numbers[1];
      if (numbers[0]) found = texts.compare(a.text, b.text);
      else found = a.number < b.number ? -1 : a.number > b.number ? 1 : 0;
      return down ? -found : found;
    };
    rows.sort(order);
    table.tBodies[0].append(...rows.map((r) => r.row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const table of every(".table table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
      const button = make("button", { type: "button" });
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sortBy(table, column, heading));
    });
  }

  // Choices: one at a time; those with the same title change together, so that images stay comparable.
  const blocks = every(".choices").map((block) => ({ block, title: block.dataset.title, all: every(":scope > .choice", block) }));
  const show = (chosen, name, from) => {
    const before = from.getBoundingClientRect().top;
    for (const one of blocks) {
      if (one.title !== chosen.title || !one.all.some((c) => c.dataset.name === name)) continue;
      for (const choice of one.all) choice.hidden = choice.dataset.name !== name;
      if (one.select) one.select.value = name;
      for (const tab of one.tabs || []) {
        const is = tab.dataset.name === name;
        tab.setAttribute("aria-selected", is);
        tab.tabIndex = is ? 0 : -1;
      }
    }
    window.scrollBy({ top: from.getBoundingClientRect().top - before, behavior: "instant" });
  };
  let numbers = 0;
  for (const one of blocks) {
    if (one.all.length < 2) { one.block.classList.add("live"); continue; }
    const names = one.all.map((choice) => choice.dataset.name);
    const bar = make("div", { class: "switch" });
    if (names.length > 10) {
      one.select = make("select", { "aria-label": one.title });
      for (const name of names) one.select.append(make("option", { value: name }, name));
      one.select.addEventListener("change", () => show(one, one.select.value, bar));
      bar.append(one.select);
    } else {
      bar.setAttribute("role", "tablist");
      bar.setAttribute("aria-label", one.title);
      one.tabs = one.all.map((choice) => {
        numbers += 1;
        choice.id = `choice-${numbers}`;
        choice.setAttribute("role", "tabpanel");
        choice.setAttribute("aria-labelledby", `tab-${numbers}`);
        const tab = make("button", { type: "button", role: "tab", id: `tab-${numbers}`, "aria-controls": choice.id }, choice.dataset.name);
        tab.dataset.name = choice.dataset.name;
        tab.addEventListener("click", () => show(one, tab.dataset.name, bar));
        return tab;
      });
      bar.append(...one.tabs);
      bar.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = one.tabs[(one.tabs.indexOf(document.activeElement) + step + one.tabs.length) % one.tabs.length];
        next.focus();
        show(one, next.dataset.name, bar);
        event.preventDefault();
      });
    }
    one.all[0].before(bar);
    one.block.classList.add("live");
    one.all.forEach((choice, k) => { choice.hidden = k > 0; });
    (one.tabs || []).forEach((tab, k) => { tab.setAttribute("aria-selected", k === 0); tab.tabIndex = k === 0 ? 0 : -1; });
  }

  // Zoom: a dialog with wheel, buttons, keys and dragging; Esc closes it.
  const dialog = document.getElementById("zoom");
  const stage = dialog.querySelector(".stage");
  const large = stage.querySelector("img");
  const at = { x: 0, y: 0, scale: 1, fit: 1 };
  const draw = () => {
    large.style.transform = `translate(${at.x}px, ${at.y}px) scale(${at.scale})`;
    large.classList.toggle("coarse", at.scale > 2 && large.dataset.plot === undefined);
    dialog.querySelector(".scale").textContent = `${Math.round(100 * at.scale)} %`;
  };
  const zoomTo = (scale, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
    const next = Math.min(Math.max(scale, Math.min(at.fit, 1) / 2), 24);
    at.x = x - (x - at.x) * (next / at.scale);
    at.y = y - (y - at.y) * (next / at.scale);
    at.scale = next;
    draw();
  };
  const fit = () => {
    const wide = Number(large.getAttribute("width")), high = Number(large.getAttribute("height"));
    at.fit = at.scale = Math.min(stage.clientWidth / wide, stage.clientHeight / high, 4) * 0.96;
    at.x = (stage.clientWidth - wide * at.scale) / 2;
    at.y = (stage.clientHeight - high * at.scale) / 2;
    draw();
  };
  const open = (image) => {
    const plot = image.closest("figure.plot");
    large.src = image.currentSrc || image.src;
    large.alt = image.alt;
    for (const side of ["width", "height"]) large.setAttribute(side, image.getAttribute(side));
    if (plot) large.dataset.plot = ""; else delete large.dataset.plot;
    const caption = image.closest("figure")?.querySelector("figcaption")?.textContent;
    dialog.querySelector(".caption").textContent = caption || image.alt;
    dialog.showModal();
    fit();
    stage.focus();
  };
  const acts = { in: () => zoomTo(at.scale * 1.4), out: () => zoomTo(at.scale / 1.4), fit, close: () => dialog.close() };
  dialog.addEventListener("click", (event) => acts[event.target.dataset?.do]?.());
  dialog.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] }[event.key];
    if (moves) { at.x += moves[0]; at.y += moves[1]; draw(); }
    else if (event.key === "+" || event.key === "=") acts.in();
    else if (event.key === "-") acts.out();
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoomTo(at.scale * Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); event.preventDefault(); stage.focus(); });
  stage.addEventListener("pointermove", (event) => {
    if (!stage.hasPointerCapture(event.pointerId)) return;
    at.x += event.movementX; at.y += event.movementY; draw();
  });
  window.addEventListener("resize", () => { if (dialog.open) fit(); });
  for (const image of every("main figure.picture img, main figure.plot img, main .gallery img")) {
    const button = make("button", { type: "button", class: "zoom", "aria-label": `Enlarge: ${image.alt}` });
    image.before(button);
    button.append(image);
    button.addEventListener("click", () => open(image));
  }

  // On paper everything is loaded, and opened where it is meant for paper.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    for (const image of every("img[loading]")) image.loading = "eager";
    closed = every("details:not([open]):not(.screen)");
    for (const one of closed) one.open = true;
  });
  window.addEventListener("afterprint", () => { for (const one of closed) one.open = false; });

  // Which section is being read.
  const links = new Map(every("nav a").map((link) => [link.getAttribute("href").slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const first = Array.from(links.keys()).find((id) => seen.has(id));
    for (const [id, link] of links) { if (id === first) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current"); }
  }, { rootMargin: "-10% 0px -60% 0px" });
  for (const part of every("main > section")) watch.observe(part);
})();
