/** Tabs of the middle: one part is shown at a time. Arrow keys go along those that are offered. */

import { byId } from "./dom.js";

export class Tabs {
  /** @param {string[]} names ids of the parts; a tab is `tab-NAME` @param {(name: string) => void} onShown */
  constructor(names, onShown) {
    this.names = names;
    this.onShown = onShown;
    this.current = names[0];
    for (const name of names) byId(`tab-${name}`).addEventListener("click", () => this.show(name));
    byId(`tab-${names[0]}`).parentElement.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
      if (!step) return;
      event.preventDefault();
      const offered = this.names.filter((name) => !byId(`tab-${name}`).hidden);
      this.show(offered[(offered.indexOf(this.current) + step + offered.length) % offered.length], true);
    });
  }

  /** @param {string} name one that is offered, else nothing happens @param {boolean} [withFocus] */
  show(name, withFocus = false) {
    if (byId(`tab-${name}`).hidden) return;
    this.current = name;
    for (const one of this.names) {
      const tab = byId(`tab-${one}`);
      tab.setAttribute("aria-selected", String(one === name));
      tab.tabIndex = one === name ? 0 : -1;
      byId(one).hidden = one !== name;
      if (one === name && withFocus) tab.focus();
    }
    this.onShown(name);
  }

  /** Whether the server has what a part shows. @param {string} name @param {boolean} on */
  offer(name, on) {
    byId(`tab-${name}`).hidden = !on;
    document.body.classList.toggle("many-tabs", this.names.filter((one) => !byId(`tab-${one}`).hidden).length > 2);
    if (!on && this.current === name) this.show(this.names[0]);
  }
}
