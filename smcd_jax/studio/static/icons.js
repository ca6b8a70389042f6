// Line icons on a grid of 16 x 16, drawn in the colour of the text.

const PATHS = {
  add: "M8 3v10M3 8h10",
  box: "M3 3h10v10H3z",
  boxes: "M2.5 2.5h7v7h-7zM6.5 12.5v1h7v-7h-1",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  chevron: "M6 4l4 4-4 4",
  dice: "M3 3h10v10H3zM6 6h.01M10 6h.01M8 8h.01M6 10h.01M10 10h.01",
  download: "M8 2.5v8M4.5 7.5L8 11l3.5-3.5M3 13.5h10",
  eye: "M1.5 8S4 3.8 8 3.8 14.5 8 14.5 8 12 12.2 8 12.2 1.5 8 1.5 8zM8 9.8a1.8 1.8 0 1 0 0-3.6 1.8 1.8 0 0 0 0 3.6z",
  first: "M4 3.5v9M12.5 3.5L6 8l6.5 4.5z",
  fit: "M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10",
  help: "M6 6.2a2 2 0 1 1 2.8 1.9c-.6.3-.8.7-.8 1.4M8 12h.01M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13z",
  import: "M8 10.5v-8M4.5 6L8 2.5 11.5 6M3 13.5h10",
  key: "M8 2.5L13.5 8 8 13.5 2.5 8z",
  last: "M12 3.5v9M3.5 3.5L10 8l-6.5 4.5z",
  minus: "M3 8h10",
  open: "M1.8 12.8v-9h4.4l1.5 1.7h6.5v7.3z",
  path: "M2.5 12.5c3 0 2.5-4 5.5-4s2.5-5 5.5-5",
  pause: "M5 3.5v9M11 3.5v9",
  play: "M4.5 3l8.5 5-8.5 5z",
  redo: "M13 3.5v4H9M12.8 7.2A5.2 5.2 0 1 0 13 10",
  reuse: "M13.5 8a5.5 5.5 0 1 1-1.7-4M13.5 2v3h-3",
  trash: "M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.7 9h6.6l.7-9M6.7 7v4M9.3 7v4",
  undo: "M3 3.5v4h4M3.2 7.2A5.2 5.2 0 1 1 3 10",
  warning: "M8 2L14.5 13.5h-13zM8 6.5v3.5M8 12h.01",
};

/**
 * Returns an icon as an SVG element that screen readers skip.
 * @param {keyof typeof PATHS} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Puts the icon that `data-icon` names into every element that has the attribute. */
export function fillIcons(root = document) {
  for (const element of root.querySelectorAll("[data-icon]")) element.prepend(icon(element.dataset.icon));
}
