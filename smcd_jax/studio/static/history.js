// The gallery of the output folder.

import * as api from "./api.js";
import { announce, byId, h, keyed } from "./dom.js";
import { icon } from "./icons.js";

/** Shows the entries of the history, newest first. */
export class History {
  /**
   * @param {{open: (entry: Object) => void, reuse: (entry: Object) => void}} actions
   */
  constructor(actions) {
    this.actions = actions;
    this.entries = [];
    this.list = byId("history");
  }

  /** Reads the history again. */
  async refresh() {
    try {
      this.entries = (await api.getHistory()).entries;
    } catch (error) {
      announce(error.message, { error: true });
    }
    this.render();
  }

  render() {
    byId("no-history").hidden = this.entries.length > 0;
    byId("history-count").textContent = this.entries.length ? `${this.entries.length}` : "";
    keyed(
      this.list,
      this.entries,
      (entry) => entry.id,
      (entry) => this.create(entry),
      () => {},
    );
  }

  create(entry) {
    const prompt = entry.settings.prompt || "Without a prompt";
    const picture = h("img", { src: entry.picture, alt: "", loading: "lazy" });
    const count = entry.videos.length > 1 ? `, ${entry.videos.length} videos` : "";
    const facts = h("span", { class: "muted", text: `${when(entry.created)}${count}` });
    const open = h(
      "button",
      { type: "button", class: "entry-open", "aria-label": `Play: ${prompt}`, onclick: () => this.actions.open(entry) },
      picture,
      h("span", { class: "entry-text" }, h("span", { class: "entry-prompt", text: prompt }), facts),
    );
    const reuse = tool("reuse", "Reuse these settings", () => this.actions.reuse(entry));
    const remove = tool("trash", "Delete this result from the output folder", () => this.remove(entry, remove));
    return h("li", { class: "entry" }, open, reuse, remove);
  }

  /** Deletes an entry after a second press. */
  async remove(entry, button) {
    if (!button.classList.contains("armed")) {
      button.classList.add("armed");
      button.addEventListener("blur", () => button.classList.remove("armed"), { once: true });
      return announce("Press again to delete the files of this result.");
    }
    try {
      await api.deleteEntry(entry.id);
      announce("Deleted.");
    } catch (error) {
      announce(error.message, { error: true });
    }
    await this.refresh();
  }
}

function tool(name, title, onclick) {
  return h("button", { type: "button", class: "tool", title, "aria-label": title, onclick }, icon(name));
}

/** Returns a time as short text. */
function when(created) {
  const date = new Date(typeof created === "number" ? created * 1000 : created);
  if (Number.isNaN(date.getTime())) return "";
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? time : `${date.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}
