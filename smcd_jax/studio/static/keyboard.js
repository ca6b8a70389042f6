// Keys that work anywhere on the page, except in text fields.

import { announce, byId, h } from "./dom.js";

/** Keys and their actions, as in docs/studio.md and in the help dialog. */
export const KEYS = [
  ["Space", "Play or pause"],
  [", and .", "One frame back or on"],
  ["Home, End", "First or last frame"],
  ["B", "Add a box in the middle"],
  ["Tab", "Next box, keyframe or field"],
  ["Arrows", "Move the focused box by 1 pixel, or the focused keyframe by 1 frame"],
  ["Shift + arrows", "Move the focused box by 10 pixels"],
  ["Alt + arrows", "Resize the focused box; with Shift by 10 pixels"],
  ["K", "Add or remove a keyframe"],
  ["Delete", "Delete the focused box or keyframe"],
  ["Ctrl + D", "Copy the selected object with its track"],
  ["Ctrl + Z, Ctrl + Shift + Z", "Undo, redo"],
  ["P", "Preview on or off"],
  ["O", "Path on or off"],
  ["+, -, 0", "Zoom in, out, fit"],
  ["Ctrl + Enter", "Generate"],
  ["Escape", "Leave the box; back from the result to the editor"],
  ["?", "This list"],
];

const TYPING = "textarea, select, input:not([type=range]):not([type=color]):not([type=checkbox])";

/** Fills the help dialog and listens for keys. */
export function listenForKeys({ store, boxes, timeline, transport, stage, objects, player }) {
  const rows = KEYS.map(([keys, text]) => h("tr", {}, h("th", { scope: "row", text: keys }), h("td", { text })));
  byId("key-rows").replaceChildren(...rows);
  byId("help").addEventListener("click", () => byId("help-dialog").showModal());
  const undo = (name, step) => announce(step ? `${name}: ${step}.` : `Nothing to ${name.toLowerCase()}.`);
  const actions = {
    undo: () => undo("Undo", store.undo()),
    redo: () => undo("Redo", store.redo()),
  };
  byId("undo").addEventListener("click", actions.undo);
  byId("redo").addEventListener("click", actions.redo);
  store.subscribe(() => {
    byId("undo").disabled = store.undoSteps.length === 0;
    byId("redo").disabled = store.redoSteps.length === 0;
  });
  const editing = {
    " ": () => transport.toggle(),
    ",": () => transport.step(-1),
    ".": () => transport.step(1),
    Home: () => transport.goTo(0),
    End: () => transport.goTo(Infinity),
    b: () => boxes.addInMiddle(),
    k: () => timeline.toggleKeyframe(),
    p: () => store.show({ preview: !store.view.preview }),
    o: () => store.show({ onion: !store.view.onion }),
    Delete: () => store.view.selected && objects.remove(store.view.selected),
    Escape: () => {
      document.activeElement?.blur();
      store.show({ selected: null });
    },
    "+": () => stage.zoomBy(1.25),
    "=": () => stage.zoomBy(1.25),
    "-": () => stage.zoomBy(0.8),
    0: () => stage.zoomTo(1),
  };
  const watching = {
    " ": () => player.toggle(),
    ",": () => player.step(-1),
    ".": () => player.step(1),
    Home: () => player.seek(0),
    Escape: () => store.show({ tab: "edit" }),
  };
  const withControl = {
    z: (event) => (event.shiftKey ? actions.redo() : actions.undo()),
    y: () => actions.redo(),
    d: () => store.selected && objects.copy(store.view.selected),
    Enter: () => byId("form").requestSubmit(),
  };
  // A click on these leaves the focus on the box, so that arrows and Space continue to work.
  document.addEventListener("mousedown", (event) => {
    if (event.target.closest(".view-tools button, .transport button")) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const control = event.ctrlKey || event.metaKey;
    const typing = event.target.matches(TYPING);
    // The browser handles undo within text fields.
    if (typing && !(control && key === "Enter")) return;
    if (control) return run(event, withControl[key]);
    if (event.altKey) return;
    if (key === "?") return run(event, () => byId("help-dialog").showModal());
    // Space presses the focused button.
    if (key === " " && event.target.matches("summary, a, button")) return;
    if ((key === "Home" || key === "End") && event.target.matches("input[type=range]")) return;
    run(event, (store.view.tab === "result" ? watching : store.tracks ? editing : {})[key]);
  });
}

function run(event, action) {
  if (!action) return;
  event.preventDefault();
  action(event);
}
