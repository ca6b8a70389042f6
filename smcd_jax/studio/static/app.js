// Starts the page and connects its parts.

import * as api from "./api.js";
import { BoxLayer } from "./boxes.js";
import { announce, byId, h } from "./dom.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { fillIcons } from "./icons.js";
import { Jobs } from "./jobs.js";
import { listenForKeys } from "./keyboard.js";
import { ObjectList } from "./objects.js";
import { Opener } from "./pictures.js";
import { Player } from "./player.js";
import { Preview } from "./preview.js";
import { keepSession, restoreSession } from "./session.js";
import { Stage } from "./stage.js";
import { Store } from "./store.js";
import { Timeline } from "./timeline.js";
import { fromTrackFile, setFrames } from "./tracks.js";
import { Transport } from "./transport.js";

/** Shows the editor or the result. */
function connectTabs(store, player) {
  const tabs = { edit: byId("tab-edit"), result: byId("tab-result") };
  for (const [name, tab] of Object.entries(tabs)) {
    tab.addEventListener("click", () => store.show({ tab: name }));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = name === "edit" ? "result" : "edit";
      if (tabs[other].disabled) return;
      event.preventDefault();
      store.show({ tab: other, playing: false });
      tabs[other].focus();
    });
  }
  let shown = null;
  store.subscribe(() => {
    const { tab } = store.view;
    if (tab === shown) return;
    if (shown === "result") player.pause();
    shown = tab;
    for (const [name, element] of Object.entries(tabs)) {
      element.setAttribute("aria-selected", `${name === tab}`);
      element.tabIndex = name === tab ? 0 : -1;
    }
    byId("editor").hidden = tab !== "edit";
    byId("result").hidden = tab !== "result";
    player.layout();
  });
}

/** Opens an entry of the history in the player. */
function makeOpenResult(store, player) {
  return (entry, index = 0) => {
    byId("tab-result").disabled = false;
    store.show({ tab: "result", playing: false });
    player.open(entry, index);
    byId("result").scrollIntoView({ block: "nearest" });
    // Do not take the focus from a user who is typing.
    if (!document.activeElement?.matches("textarea, input, select")) byId("result-play").focus();
  };
}

/** Restores the picture, tracks and form of an entry. */
async function reuse(entry, { opener, form, store }) {
  try {
    const picture = await pictureOf(entry);
    const { tracks } = entry.settings;
    form.fill(entry.settings);
    await opener.show(picture, tracks ? fromTrackFile(tracks, [picture.width, picture.height]) : null);
    announce("The settings of this result are back in the form.");
  } catch (error) {
    announce(error.message, { error: true });
  }
  store.show({ tab: "edit" });
}

/** Returns the picture of an entry, uploading it again if the server no longer has it. */
async function pictureOf(entry) {
  const response = await fetch(entry.picture);
  if (!response.ok) throw new Error("The picture of this result is missing in the output folder.");
  const blob = await response.blob();
  return api.sendPicture(new File([blob], "picture.png", { type: blob.type }));
}

/** Shows the button for the shipped example, if the server has one. */
async function offerExample(opener) {
  const { examples } = await api.getExamples().catch(() => ({ examples: [] }));
  const buttons = examples.map(({ name }) =>
    h("button", { type: "button", text: `Try the ${name}`, onclick: () => opener.openExample(name) }),
  );
  byId("examples").replaceChildren(...buttons);
}

/** Sets the number of frames of an empty document to that of the model. */
function followModel(store) {
  store.subscribe((changed) => {
    if (!changed.has("model") || !store.tracks || store.tracks.objects.length) return;
    if (store.tracks.frames !== store.model.num_frames) {
      store.edit("change the number of frames", setFrames(store.tracks, store.model.num_frames));
    }
  });
}

async function start() {
  fillIcons();
  const store = new Store();
  const preview = new Preview(store, () => stage.requestDraw());
  const stage = new Stage(store, preview);
  const boxes = new BoxLayer(store, stage);
  const timeline = new Timeline(store);
  const transport = new Transport(store);
  const objects = new ObjectList(store);
  const player = new Player();
  const openResult = makeOpenResult(store, player);
  const history = new History({ open: openResult, reuse: (entry) => reuse(entry, { opener, form, store }) });
  const jobs = new Jobs(async (job) => {
    await history.refresh();
    const entry = history.entries.find((item) => item.id === job.result);
    if (entry) openResult(entry);
  });
  const form = new Form(store, (request) => jobs.start(request));
  const promptOf = () => byId("prompt").value.trim();
  const opener = new Opener(store, promptOf, (text) => {
    if (!promptOf()) byId("prompt").value = text;
  });
  connectTabs(store, player);
  followModel(store);
  listenForKeys({ store, boxes, timeline, transport, stage, objects, player });
  byId("result-reuse").addEventListener("click", () => reuse(player.entry, { opener, form, store }));
  // For the browser tests, which compare values and timings.
  window.studio = { store, preview, stage, player };
  store.notify("view");
  try {
    form.setModels((await api.getInfo()).models);
  } catch (error) {
    announce(error.message, { error: true });
  }
  const session = await restoreSession();
  if (session) {
    byId("prompt").value = session.prompt;
    if (session.model) form.choose(session.model);
    await opener.show(session.picture, session.tracks);
  }
  keepSession(store, promptOf);
  document.body.dataset.ready = "true";
  await Promise.all([history.refresh(), jobs.resume(), offerExample(opener)]);
}

start();
