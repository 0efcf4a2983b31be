/** Elements made in one call. Text becomes text nodes: nothing here, or elsewhere on the page, parses HTML. */

/** @typedef {Node | string | null | undefined | false} Child */
/** @typedef {Object<string, any>} Properties `class`, `on` (listeners), `style` (custom properties), `data-*`, `aria-*`, attributes */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same for SVG. @param {string} tag @param {Properties} [properties] @param {...(Child | Child[])} children @returns {any} */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/** @param {Element} element @param {Properties} properties @param {(Child | Child[])[]} children */
function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, one] of Object.entries(value)) styled(element).style.setProperty(key, one);
    else if (name === "value" || name === "checked") /** @type {any} */ (element)[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** @param {Element} element */
const styled = (element) => /** @type {HTMLElement} */ (element);

/** The element with this id, which index.html has. @param {string} id @returns {any} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return found;
}

/** Sets a text where it is another one: what a reader has selected or hears stays. @param {Element} element @param {string} text */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows a problem in words, or hides its place. @param {HTMLElement} place @param {string} problem "": none */
export function putProblem(place, problem) {
  place.hidden = !problem;
  put(place, problem);
}

/** Makes children those of a list, in its order. Those that stay are not moved, since that would take their focus. @param {Element} list @param {Element[]} children */
export function arrange(list, children) {
  for (const child of [...list.children]) if (!children.includes(child)) child.remove();
  children.forEach((child, index) => {
    if (list.children[index] !== child) list.insertBefore(child, list.children[index] ?? null);
  });
}

/** Sets labels and values where they are others. @param {HTMLElement} list a dl @param {[string, string][]} rows */
export function putFacts(list, rows) {
  const words = JSON.stringify(rows);
  if (list.dataset.facts === words) return;
  list.dataset.facts = words;
  list.replaceChildren(...rows.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value))));
}

const PATHS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  edit: "M5 19h3.5L19 8.5 15.5 5 5 15.5zM13.5 7l3.5 3.5",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  check: "M5 12.5l4.5 4.5L19 7.5",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13",
  save: "M12 4v11M7.5 11l4.5 4.5 4.5-4.5M5 20h14",
  look: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6z",
  sliders: "M4 8h9M17 8h3M4 16h3M11 16h9M15 5.8v4.4M9 13.8v4.4",
  left: "M14.5 6l-6 6 6 6",
  right: "M9.5 6l6 6-6 6",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M18.7 5.3l-1.4 1.4M6.7 17.3l-1.4 1.4",
  moon: "M19.5 14.2A8 8 0 0 1 9.8 4.5a8 8 0 1 0 9.7 9.7z",
  keys: "M3 7h18v10H3zM6.5 10.5h.01M10 10.5h.01M13.5 10.5h.01M17 10.5h.01M8 13.8h8",
};

/** @param {keyof typeof PATHS} name */
export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}

/**
 * A button with an icon; its label is shown, or only told.
 * @param {keyof typeof PATHS} name @param {string} label @param {(event: MouseEvent) => void} act @param {Properties & {bare?: boolean}} [properties]
 */
export function iconButton(name, label, act, { bare = false, ...properties } = {}) {
  const told = bare ? { "aria-label": label, title: label } : {};
  return h("button", { type: "button", class: bare ? "icon-button" : "text-button", ...told, ...properties, on: { click: act } },
    icon(name), bare ? null : h("span", {}, label));
}
