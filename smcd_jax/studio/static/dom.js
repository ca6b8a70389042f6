// Helpers for building and updating the document.

/**
 * Creates an element.
 * @param {string} tag Name of the element.
 * @param {Object<string, any>} [props] `class`, `text`, `on<event>` listeners, attributes with a dash or `role`,
 *     and otherwise properties of the element.
 * @param {...(Node|string|null|false)} children Children; null and false are left out.
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

/**
 * Returns the element with an id of index.html.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Makes the children of a container match a list, and keeps the element of each key, so that focus survives.
 * @template T
 * @param {HTMLElement} container
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => HTMLElement} create
 * @param {(element: HTMLElement, item: T, index: number) => void} update
 */
export function keyed(container, items, keyOf, create, update) {
  const old = new Map([...container.children].map((child) => [child.dataset.key, child]));
  let place = container.firstElementChild;
  items.forEach((item, index) => {
    const key = keyOf(item);
    let element = old.get(key);
    old.delete(key);
    if (!element) {
      element = create(item);
      element.dataset.key = key;
    }
    if (element === place) place = place.nextElementSibling;
    else container.insertBefore(element, place);
    update(element, item, index);
  });
  for (const element of old.values()) element.remove();
}

/**
 * Sets a value only if it changed and the user is not typing into the field.
 * @param {HTMLInputElement|HTMLSelectElement|HTMLTextAreaElement} field
 * @param {string} value
 */
export function setValue(field, value) {
  if (document.activeElement === field && field.dataset.dirty) return;
  if (field.value !== value) field.value = value;
}

/**
 * Returns a function that runs `call` once calls have stopped for `milliseconds`.
 * @param {() => void} call
 * @param {number} milliseconds
 * @returns {() => void}
 */
export function debounce(call, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, milliseconds);
  };
}

/**
 * Tells screen readers, and the line below the picture, what happened.
 * @param {string} message
 * @param {{error?: boolean}} [options]
 */
export function announce(message, { error = false } = {}) {
  const line = byId("status");
  line.textContent = message;
  line.title = message;
  line.classList.toggle("error", error);
}

/**
 * Offers a file to the user as a download.
 * @param {string} name
 * @param {string} text
 */
export function downloadText(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
