// Opening pictures and tracks: by file dialog, drop and paste.

import * as api from "./api.js";
import { announce, byId, downloadText } from "./dom.js";
import { emptyTracks, fromTrackFile, toTrackFile } from "./tracks.js";

const TRACK_SUFFIXES = /\.(json|txt|xml|csv|ini)$/i;

/** Opens what the user chooses, drops or pastes. */
export class Opener {
  /**
   * @param {import("./store.js").Store} store
   * @param {() => string} promptOf Returns the text of the prompt field.
   * @param {(text: string) => void} setPrompt Sets the prompt that came with tracks, if the field is empty.
   */
  constructor(store, promptOf, setPrompt) {
    this.store = store;
    this.promptOf = promptOf;
    this.setPrompt = setPrompt;
    this.connect("open", "picture-file", (file) => this.openFile(file));
    this.connect("open-empty", "picture-file");
    this.connect("import", "tracks-file", (file) => this.importFile(file));
    byId("export").addEventListener("click", () => this.exportTracks());
    this.listenForDrops();
    document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])][0];
      if (file) this.receive(file);
    });
    store.subscribe(() => {
      byId("import").disabled = !store.picture;
      byId("export").disabled = !store.tracks?.objects.length;
    });
  }

  connect(button, input, onFile = null) {
    const field = byId(input);
    byId(button).addEventListener("click", () => field.click());
    if (!onFile) return;
    field.addEventListener("change", () => {
      const [file] = field.files;
      field.value = "";
      if (file) onFile(file);
    });
  }

  listenForDrops() {
    const over = (on) => document.body.classList.toggle("dropping", on);
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      over(true);
    });
    document.addEventListener("dragleave", (event) => over(event.relatedTarget !== null));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      over(false);
      const [file] = event.dataTransfer.files;
      if (file) this.receive(file);
    });
  }

  receive(file) {
    if (TRACK_SUFFIXES.test(file.name) && !file.type.startsWith("image/")) return this.importFile(file);
    return this.openFile(file);
  }

  /** Number of frames of a new document. */
  get frames() {
    return this.store.model?.num_frames ?? 8;
  }

  /** Sends a picture to the server and opens it. */
  async openFile(file) {
    announce(`Opening ${file.name} …`);
    try {
      const picture = await api.sendPicture(file);
      await this.show({ ...picture, name: picture.name ?? file.name });
      const { width, height } = picture;
      announce(`${width} × ${height} pixels. Drag a box around what should move.`);
    } catch (error) {
      announce(error.message, { error: true });
    }
  }

  /**
   * Shows a picture that the server has.
   * @param {{id: string, width: number, height: number, name: string}} picture
   * @param {import("./tracks.js").Tracks|null} tracks
   */
  async show(picture, tracks = null) {
    const image = new Image();
    image.src = api.pictureUrl(picture.id);
    await image.decode();
    const bitmap = await createImageBitmap(image);
    const size = [picture.width, picture.height];
    this.store.openPicture({ ...picture, image: bitmap }, tracks ?? emptyTracks(this.frames, size));
  }

  /** Opens a shipped example. */
  async openExample(name) {
    try {
      const { picture, tracks } = await api.openExample(name);
      await this.show(picture, fromTrackFile(tracks, [picture.width, picture.height]));
      this.setPrompt(tracks.prompt ?? "");
      announce("Press Space to play the motion, or drag the box at any frame to change it.");
    } catch (error) {
      announce(error.message, { error: true });
    }
  }

  /** Reads tracks of any format through the server; they replace the objects and can be undone. */
  async importFile(file) {
    const { store } = this;
    if (!store.picture) return announce("Open a picture first; tracks refer to it.", { error: true });
    try {
      const { width, height } = store.picture;
      const answer = await api.importTracks(file, { width, height, frames: store.tracks.frames });
      const tracks = fromTrackFile(answer.tracks, [width, height]);
      store.edit("import tracks", tracks);
      store.show({ frame: 0, selected: tracks.objects[0].id, playing: false });
      this.setPrompt(answer.tracks.prompt ?? "");
      const notes = answer.warnings.map((warning) => warning.message ?? warning).join(" ");
      announce(`${tracks.objects.length} objects over ${tracks.frames} frames from ${file.name}. ${notes}`);
    } catch (error) {
      announce(error.message, { error: true });
    }
  }

  /** Downloads tracks.json, which `smcd animate --tracks` reads. */
  exportTracks() {
    const content = toTrackFile(this.store.tracks, this.promptOf());
    downloadText("tracks.json", `${JSON.stringify(content, null, 1)}\n`);
    announce("tracks.json saved; `smcd animate --tracks tracks.json` reads it.");
  }
}
