// Keeps the edited document across reloads of the tab.

import * as api from "./api.js";
import { debounce } from "./dom.js";

const KEY = "smcd-studio";
const WAIT = 400;

/**
 * Stores the document of this tab whenever it changes. Other tabs have their own.
 * @param {import("./store.js").Store} store
 * @param {() => string} promptOf
 */
export function keepSession(store, promptOf) {
  const save = debounce(() => {
    if (!store.picture) return;
    const { id, width, height, name } = store.picture;
    const content = {
      picture: { id, width, height, name },
      tracks: store.tracks,
      prompt: promptOf(),
      model: store.model?.name,
    };
    try {
      sessionStorage.setItem(KEY, JSON.stringify(content));
    } catch {
      // Without storage, a reload starts with an empty page.
    }
  }, WAIT);
  store.subscribe(save);
  document.addEventListener("input", save);
}

/**
 * Returns the stored document, if the server still has its picture.
 * @returns {Promise<{picture: Object, tracks: import("./tracks.js").Tracks, prompt: string}|null>}
 */
export async function restoreSession() {
  try {
    const content = JSON.parse(sessionStorage.getItem(KEY));
    if (!content) return null;
    const response = await fetch(api.pictureUrl(content.picture.id));
    return response.ok ? content : null;
  } catch {
    return null;
  }
}
