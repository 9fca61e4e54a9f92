// Two views, one seen; arrow keys move between their tabs.

export function tabs(list) {
  const all = [...list.querySelectorAll("[role=tab]")];

  function show(chosen) {
    for (const tab of all) {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !on;
    }
  }

  list.addEventListener("click", ({ target }) => all.includes(target) && show(target));
  list.addEventListener("keydown", ({ key }) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!by) return;
    const next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
    show(next);
    next.focus();
  });
}
