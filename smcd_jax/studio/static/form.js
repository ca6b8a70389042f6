// The form that starts videos: model, prompt, options, number of videos.

import { announce, byId, h } from "./dom.js";
import { makeField } from "./options.js";
import { toTrackFile } from "./tracks.js";

/** Reads and fills the form. */
export class Form {
  /**
   * @param {import("./store.js").Store} store
   * @param {(request: Object) => Promise<void>} start Sends a request.
   */
  constructor(store, start) {
    this.store = store;
    this.fields = new Map();
    this.prompt = byId("prompt");
    this.negative = byId("negative");
    this.videos = byId("videos");
    this.models = byId("model");
    this.models.addEventListener("change", () => this.choose(this.models.value));
    byId("form").addEventListener("change", () => this.store.model && this.showVideo());
    byId("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const request = this.request();
      if (!request) return;
      byId("generate").disabled = true;
      await start(request).catch((error) => this.fail(error.message, this.control(error.argument)));
      byId("generate").disabled = false;
    });
    for (const field of [this.prompt, this.negative]) field.addEventListener("input", () => this.fail(""));
  }

  /** Shows the models of /api/info and chooses the first. */
  setModels(models) {
    this.list = models;
    this.models.replaceChildren(...models.map(({ name, title }) => h("option", { value: name, text: title ?? name })));
    this.models.disabled = models.length < 2;
    if (models.length) this.choose(models[0].name);
  }

  /** Chooses a model and makes the fields of its options; values of options that both models have are kept. */
  choose(name) {
    const model = this.list.find((item) => item.name === name);
    if (!model) return;
    this.models.value = name;
    const kept = new Map([...this.fields].map(([option, field]) => [option, field.value()]));
    this.fields = new Map();
    const groups = { common: byId("options"), rest: byId("more-options") };
    for (const group of Object.values(groups)) group.replaceChildren();
    byId("negative-field").hidden = !model.options.some((option) => option.name === "negative_prompt");
    for (const option of model.options) {
      if (option.name === "negative_prompt" || option.name === "num_videos_per_prompt") continue;
      const field = makeField(option);
      if (kept.get(option.name) !== undefined) field.set(kept.get(option.name));
      this.fields.set(option.name, field);
      groups[option.common ? "common" : "rest"].append(field.element);
    }
    byId("more").hidden = groups.rest.childElementCount === 0;
    this.prompt.required = model.required.includes("prompt");
    this.store.chooseModel(model);
    this.showVideo();
  }

  /** Passes the size of the video and the fitting of the picture to the editor. */
  showVideo() {
    const { model } = this.store;
    const valueOf = (name) => this.fields.get(name)?.value();
    this.store.setVideo({
      width: valueOf("width") ?? model.width,
      height: valueOf("height") ?? model.height,
      frames: valueOf("num_frames") ?? model.num_frames,
      fit: valueOf("picture_fit") ?? model.picture_fit,
    });
  }

  /** Returns the request, or reports what is missing and returns null. */
  request() {
    const { picture, tracks, model } = this.store;
    this.fail("");
    if (!model) return this.fail("No model is loaded; start with `smcd studio --model FOLDER`.");
    if (!picture) return this.fail("Open a picture first.", byId("open"));
    const used = model.takes_tracks && tracks.objects.length > 0;
    if (!used && model.required.includes("tracks")) {
      return this.fail("Draw a box around what should move.", byId("add-box"));
    }
    if (!this.prompt.value.trim() && model.required.includes("prompt")) {
      return this.fail("Describe the video in one sentence.", this.prompt);
    }
    const invalid = byId("form").querySelector(":invalid");
    if (invalid) {
      byId("more").open ||= byId("more").contains(invalid);
      return this.fail(invalid.validationMessage, invalid);
    }
    const options = {};
    for (const [name, field] of this.fields) {
      if (field.value() !== undefined) options[name] = field.value();
    }
    return {
      model: model.name,
      picture: picture.id,
      prompt: this.prompt.value.trim(),
      negative_prompt: byId("negative-field").hidden ? null : this.negative.value.trim() || null,
      tracks: used ? toTrackFile(tracks, this.prompt.value.trim()) : null,
      options,
      num_videos: Number(this.videos.value) || 1,
    };
  }

  /** Fills the form from the settings of an earlier job. */
  fill(settings) {
    if (this.list.some((model) => model.name === settings.model)) this.choose(settings.model);
    this.prompt.value = settings.prompt ?? "";
    this.negative.value = settings.negative_prompt ?? "";
    this.videos.value = `${settings.num_videos ?? 1}`;
    for (const [name, field] of this.fields) field.set(settings.options?.[name]);
    this.showVideo();
  }

  control(argument) {
    return { prompt: this.prompt, negative_prompt: this.negative }[argument] ?? byId(`option-${argument}`);
  }

  /** Shows an error below the form and focuses the field; returns null. */
  fail(message, field = null) {
    const line = byId("form-error");
    line.textContent = message;
    line.hidden = !message;
    if (message) announce(message, { error: true });
    field?.closest("details")?.setAttribute("open", "");
    field?.focus();
    return null;
  }
}
